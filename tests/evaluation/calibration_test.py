import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from mulsupcon_tf.evaluation.calibration import Calibration, calibration_error, fit_calibration, reliability
from mulsupcon_tf.utils.errors import InputError


def drawn(seed, *, temperature, offset=0.0, samples=4000):
    """Labels drawn from sigmoid(x / T + b), and the logits x."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(samples, 5))
    return (rng.random(logits.shape) < expit(logits / temperature + offset)).astype(int), logits


@pytest.mark.parametrize("offset", [0.0, -1.5])
@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_what_labels_were_drawn_with_is_found_as_logistic_regression_finds_it(temperature, offset):
    labels, logits = drawn(0, temperature=temperature, offset=offset)
    found = fit_calibration(labels, logits, with_offset=bool(offset))
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.offset == pytest.approx(offset, abs=0.1)
    regression = LogisticRegression(C=1e9, tol=1e-9, fit_intercept=bool(offset)).fit(
        logits.reshape(-1, 1), labels.ravel()
    )
    assert 1 / found.temperature == pytest.approx(regression.coef_[0, 0], rel=1e-4)
    assert found.offset == pytest.approx(float(np.ravel(regression.intercept_)[0]), abs=1e-4)


def test_calibration_lowers_the_error_and_keeps_the_order():
    labels, logits = drawn(1, temperature=2.0)
    calibration = fit_calibration(labels, logits, with_offset=False)
    before, after = (calibration_error(reliability(labels, each.of(logits))) for each in (Calibration(), calibration))
    assert after < 0.015
    assert before > 0.05
    np.testing.assert_array_equal(np.argsort(logits, axis=None), np.argsort(calibration.of(logits), axis=None))
    far = fit_calibration(labels, logits + 300.0, with_offset=True)  # where every sigmoid is 1
    near = fit_calibration(labels, logits, with_offset=True)
    np.testing.assert_allclose(far.of(logits + 300.0), near.of(logits), atol=1e-4)


@pytest.mark.parametrize("truth", [0, 1])
def test_nothing_is_learnt_from_equal_labels_and_certainties_are_numbers(truth):
    labels = np.full((4, 2), truth)
    assert fit_calibration(labels, np.full((4, 2), -0.8), with_offset=True) == Calibration(1.0, 0.0)
    labels[0, 0] = 1 - truth
    sure = np.where(labels, 500.0, -500.0)
    found = fit_calibration(labels, sure, with_offset=True)
    assert 0.05 <= found.temperature <= 20
    assert np.isfinite(found.of(sure)).all()


@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize(("sign", "reason"), [(1, "without an error"), (-1, "hardly follow")])
def test_a_temperature_beyond_the_bounds_is_not_taken_and_said(sign, reason, with_offset, caplog):
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(200, 3))
    labels = (sign * logits > 0.5 * with_offset).astype(int)
    found = fit_calibration(labels, logits, with_offset=with_offset)
    assert found.temperature == 1
    (line,) = caplog.messages
    assert (
        line.startswith("warning: the temperature that fits validation best is not within 0.05 and 20")
        and reason in line
    )
    offset = np.mean(expit(logits + found.offset) - labels)  # the derivative of the cross-entropy by the offset
    assert (found.offset != 0 and abs(offset) < 1e-6) if with_offset else found.offset == 0


def test_a_temperature_within_the_bounds_is_said_of_nothing(caplog):
    labels, logits = drawn(4, temperature=15.0)
    assert 10 < fit_calibration(labels, logits, with_offset=False).temperature < 20
    assert not caplog.messages


def test_bins_and_error_are_those_of_a_loop():
    labels, logits = drawn(2, temperature=1.7, samples=60)
    probabilities = Calibration().of(logits)
    probabilities[0] = [0.0, 1.0, 0.2, 0.4, 1 / 15]
    expected, error = [], 0.0
    for number in range(15):
        inside = [
            (p, y) for p, y in zip(probabilities.ravel(), labels.ravel(), strict=True) if min(int(p * 15), 14) == number
        ]
        if inside:
            mean, share = (sum(each) / len(inside) for each in zip(*inside, strict=True))
            expected.append((len(inside), mean, share))
            error += len(inside) / labels.size * abs(mean - share)
    bins = reliability(labels, probabilities)
    np.testing.assert_allclose(bins, expected)
    assert calibration_error(bins) == pytest.approx(error)
    assert sum(each.decisions for each in bins) == labels.size


def test_a_share_is_as_often_right_as_it_says_has_no_error():
    labels = np.array([[1], [0], [0], [0]])
    assert calibration_error(reliability(labels, np.full((4, 1), 0.25))) == 0
    assert calibration_error(reliability(labels, np.full((4, 1), 1.0))) == pytest.approx(0.75)


def test_tables_that_do_not_fit_are_one_line():
    with pytest.raises(InputError, match="must lie in"):
        reliability(np.array([[1]]), np.array([[1.5]]))
    with pytest.raises(InputError, match="must have the shape of labels"):
        fit_calibration(np.array([[1]]), np.array([[0.0, 0.5]]), with_offset=False)
