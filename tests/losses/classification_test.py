import functools
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from mulsupcon_tf.losses.classification import balanced_weights, build_loss
from mulsupcon_tf.losses.label_by_label import AsymmetricLoss, MultiLabelCrossentropy
from mulsupcon_tf.losses.positives_against_negatives import TwoWayLoss, ZLPRLoss
from mulsupcon_tf.utils.choices import LOSSES
from mulsupcon_tf.utils.errors import InputError

RNG = np.random.default_rng(5)
LABELS = (RNG.random((9, 4)) < 0.4).astype(float)
LABELS[2], LABELS[5], LABELS[:, 3] = 0.0, 1.0, 0.0  # no label, all labels, a label that nobody has
LABELS[5, 3] = 0.0
LOGITS = 3.0 * RNG.normal(size=LABELS.shape)
PARTIAL = np.where(RNG.random(LABELS.shape) < 0.3, np.nan, LABELS)
PARTIAL[7] = np.nan  # nothing is known of a sample
PARTIAL[1] = [np.nan, 1, np.nan, 1]  # nothing is known to be absent
WEIGHTS = [[0.5, 1.0, 2.0, 1.5], [3.0, 1.0, 0.25, 2.0]]
BUILT = {
    "bce": MultiLabelCrossentropy,
    "asl": AsymmetricLoss,
    "two_way": TwoWayLoss,
    "zlpr": ZLPRLoss,
}
# None of them a default.
OTHER_SETTINGS = {
    "asl": {"gamma_negative": 2.0, "gamma_positive": 0.5, "margin": 0.2},
    "two_way": {"positive_temperature": 2.0, "negative_temperature": 0.5},
}


def naive_bce(labels, logits, weights=None):
    """Loops over samples and labels; NaN is unknown."""

    def one(x, y):
        p = 1 / (1 + math.exp(-x))
        return -math.log(p) if y else -math.log(1 - p)

    return naive_label_by_label(one, labels, logits, weights)


def naive_asl(labels, logits, weights=None, *, gamma_negative=4.0, gamma_positive=1.0, margin=0.05):
    def one(x, y):
        p = 1 / (1 + math.exp(-x))
        if y:
            return -((1 - p) ** gamma_positive) * math.log(p)
        shifted = max(p - margin, 0.0)
        return -(shifted**gamma_negative) * math.log(1 - shifted)

    return naive_label_by_label(one, labels, logits, weights)


def naive_label_by_label(one, labels, logits, weights):
    by_sample = []
    for known, scores in zip(labels, logits, strict=True):
        losses = []
        for column, (y, x) in enumerate(zip(known, scores, strict=True)):
            if not math.isnan(y):
                losses.append(one(x, y) * (1.0 if weights is None else weights[int(y)][column]))
        by_sample.append(sum(losses) / len(losses) if losses else 0.0)
    return sum(by_sample) / len(by_sample)


def naive_zlpr(labels, logits):
    total = 0.0
    for known, scores in zip(labels, logits, strict=True):
        total += math.log(1 + sum(math.exp(x) for x, y in zip(scores, known, strict=True) if y == 0))
        total += math.log(1 + sum(math.exp(-x) for x, y in zip(scores, known, strict=True) if y == 1))
    return total / len(labels)


def naive_two_way(labels, logits, positive_temperature=4.0, negative_temperature=1.0):
    def rows(labels, logits):
        losses = []
        for known, scores in zip(labels, logits, strict=True):
            positives = [x for x, y in zip(scores, known, strict=True) if y == 1]
            negatives = [x for x, y in zip(scores, known, strict=True) if y == 0]
            if not positives:
                continue
            if not negatives:
                losses.append(0.0)
                continue
            low = positive_temperature * math.log(sum(math.exp(-x / positive_temperature) for x in positives))
            high = negative_temperature * math.log(sum(math.exp(x / negative_temperature) for x in negatives))
            losses.append(math.log(1 + math.exp(low + high)))
        return sum(losses) / len(losses) if losses else 0.0

    return rows(labels, logits) + rows(labels.T, logits.T)


NAIVE = {"bce": naive_bce, "asl": naive_asl, "two_way": naive_two_way, "zlpr": naive_zlpr}


def test_every_loss_of_the_flag_is_built_and_tested():
    assert set(NAIVE) == set(BUILT) == set(LOSSES)
    assert {name: type(build_loss(name)) for name in LOSSES} == BUILT


@pytest.mark.parametrize("labels", [LABELS, PARTIAL], ids=["known", "partial"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_those_of_the_naive_loop(name, labels):
    loss = BUILT[name](dtype="float64")
    np.testing.assert_allclose(loss(labels, LOGITS), NAIVE[name](labels, LOGITS), rtol=1e-12)
    logits = tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        value = loss(labels, logits)
    got, step = tape.gradient(value, logits).numpy(), 1e-6
    for place in np.ndindex(LOGITS.shape):
        moved = np.zeros_like(LOGITS)
        moved[place] = step
        slope = (NAIVE[name](labels, LOGITS + moved) - NAIVE[name](labels, LOGITS - moved)) / (2 * step)
        assert got[place] == pytest.approx(slope, rel=1e-6, abs=1e-8)
    assert not got[np.isnan(labels)].any()


@pytest.mark.parametrize("name", ["bce", "asl"])
def test_weights_multiply_what_a_label_counts(name):
    loss = BUILT[name](weights=WEIGHTS, dtype="float64")
    for labels in (LABELS, PARTIAL):
        np.testing.assert_allclose(loss(labels, LOGITS), NAIVE[name](labels, LOGITS, WEIGHTS), rtol=1e-12)


def test_settings_of_the_losses_are_those_of_their_formulas():
    loss = AsymmetricLoss(gamma_negative=2.0, gamma_positive=0.0, margin=0.0, dtype="float64")
    expected = naive_asl(LABELS, LOGITS, gamma_negative=2.0, gamma_positive=0.0, margin=0.0)
    np.testing.assert_allclose(loss(LABELS, LOGITS), expected, rtol=1e-12)
    plain = AsymmetricLoss(gamma_negative=0.0, gamma_positive=0.0, margin=0.0, dtype="float64")
    np.testing.assert_allclose(plain(LABELS, LOGITS), naive_bce(LABELS, LOGITS), rtol=1e-12)
    loss = TwoWayLoss(positive_temperature=2.0, negative_temperature=0.5, dtype="float64")
    np.testing.assert_allclose(loss(LABELS, LOGITS), naive_two_way(LABELS, LOGITS, 2.0, 0.5), rtol=1e-12)


def test_of_the_two_way_loss_a_common_shift_changes_nothing_and_of_zlpr_zero_is_the_border():
    shifted = TwoWayLoss(dtype="float64")(LABELS, LOGITS + 7.0)
    np.testing.assert_allclose(shifted, TwoWayLoss(dtype="float64")(LABELS, LOGITS), rtol=1e-12)
    right = 50.0 * (2 * LABELS - 1)
    assert float(ZLPRLoss(dtype="float64")(LABELS, right)) == pytest.approx(0.0, abs=1e-12)
    assert float(ZLPRLoss(dtype="float64")(LABELS, right + 60.0)) > 5


def test_bce_is_that_of_keras_where_every_label_is_known():
    labels, logits = LABELS.astype("float32"), LOGITS.astype("float32")
    expected = keras.losses.BinaryCrossentropy(from_logits=True)(labels, logits)
    np.testing.assert_allclose(MultiLabelCrossentropy()(labels, logits), expected, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_sure_errors_and_certainties_stay_finite(name):
    extreme = np.array([[-200.0, 200.0, 0.0], [200.0, -200.0, 1e4]], "float32")
    labels = np.array([[1, 0, 1], [1, 0, 0]], "float32")
    logits = tf.Variable(extreme)
    with tf.GradientTape() as tape:
        value = build_loss(name)(labels, logits)
    assert np.isfinite(value)
    assert np.isfinite(tape.gradient(value, logits)).all()


def stable_asl(x, y, gamma_negative, gamma_positive, margin):
    """In float64, without a difference of numbers that are nearly the same."""
    log_p, log_rest = -np.logaddexp(0, -x), -np.logaddexp(0, x)
    if y:
        return -np.exp(gamma_positive * log_rest) * log_p
    if margin == 0:
        return -np.exp(gamma_negative * log_p) * log_rest
    q = np.maximum(np.exp(log_p) - margin, 0)
    return -(q**gamma_negative) * (np.log1p(-q) if q < 0.5 else np.log(np.exp(log_rest) + margin))


@pytest.mark.parametrize("margin", [0.0, 1e-9, 0.05, 0.6])
@pytest.mark.parametrize("gamma_negative", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("gamma_positive", [0.0, 0.3, 1.0, 2.0])
def test_asymmetric_focusing_has_a_slope_however_sure_a_logit_is(gamma_positive, gamma_negative, margin):
    settings = {"gamma_negative": gamma_negative, "gamma_positive": gamma_positive, "margin": margin}
    row = np.array([-1e4, -120, -20, -8, -1, 0, 0.5, 8, 20, 120, 1e4])
    both, labels = np.stack([row, row]), np.stack([np.zeros_like(row), np.ones_like(row)])
    values, slopes = {}, {}
    for dtype in ("float32", "float64"):
        loss, logits = AsymmetricLoss(**settings, dtype=dtype), tf.Variable(both, dtype=dtype)
        with tf.GradientTape() as tape:
            value = loss.call(labels.astype(dtype), logits)
        values[dtype], slopes[dtype] = value.numpy(), tape.gradient(value, logits).numpy()
        assert np.isfinite(slopes[dtype]).all()
    expected = [np.mean([stable_asl(x, y, **settings) for x in row]) for y in (0, 1)]
    np.testing.assert_allclose(values["float64"], expected, rtol=1e-10)
    np.testing.assert_allclose(values["float32"], expected, rtol=1e-5)
    np.testing.assert_allclose(slopes["float32"], slopes["float64"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_survives_json_and_samples_may_count_differently(name):
    weights = {"weights": WEIGHTS} if name in ("bce", "asl") else {}
    loss = BUILT[name](name="mine", **weights, **OTHER_SETTINGS.get(name, {}))
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    twin = keras.saving.deserialize_keras_object(config)
    labels, logits = LABELS.astype("float32"), LOGITS.astype("float32")
    assert (type(twin), twin.name) == (BUILT[name], "mine")
    assert float(twin(labels, logits)) == float(loss(labels, logits))
    sample_weight = np.linspace(0, 2, len(LABELS)).astype("float32")
    if name == "two_way":  # it compares samples: no sample has a loss of its own
        with pytest.raises(InputError, match="takes no sample_weight"):
            loss(labels, logits, sample_weight=sample_weight)
        return
    naive = functools.partial(NAIVE[name], **weights, **OTHER_SETTINGS.get(name, {}))
    each = [naive(LABELS[row : row + 1], LOGITS[row : row + 1]) for row in range(len(LABELS))]
    expected = np.mean(sample_weight * each)
    np.testing.assert_allclose(loss(labels, logits, sample_weight=sample_weight), expected, rtol=1e-5)


def test_balanced_weights_are_those_of_scikit_learn():
    labels = (np.random.default_rng(0).random((50, 3)) < [0.02, 0.3, 0.9]).astype(int)
    labels[0] = 1
    weights = np.array(balanced_weights(labels))
    for column in range(3):
        expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels[:, column])
        np.testing.assert_allclose(weights[:, column], expected)
    assert balanced_weights(np.array([[0, 1], [0, 1]])) == [[1.0, 1.0], [1.0, 1.0]]
    known = balanced_weights(np.array([[1.0], [0.0], [0.0], [np.nan]]))
    np.testing.assert_allclose(known, [[3 / 4], [3 / 2]])  # of three
    assert build_loss("bce", class_weights="balanced", labels=labels).weights == balanced_weights(labels)
    assert build_loss("asl", class_weights="none", labels=labels).weights is None


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: build_loss("focal"), "loss must be one of bce, asl, two_way, zlpr. Received: loss=focal"),
        (
            lambda: build_loss("zlpr", class_weights="balanced", labels=LABELS),
            "belongs to bce and asl. Received: loss=zlpr",
        ),
        (lambda: build_loss("bce", class_weights="balanced"), "needs the labels of the training samples"),
        (lambda: AsymmetricLoss(margin=1.0), "margin must be below 1. Received: margin=1.0"),
        (lambda: AsymmetricLoss(gamma_negative=-1), "gamma_negative must be at least 0"),
        (lambda: TwoWayLoss(positive_temperature=0), "positive_temperature must be above 0"),
        (lambda: MultiLabelCrossentropy(weights=[1.0, 2.0]), r"two rows of one number a label. Received: shape \(2,\)"),
        (lambda: MultiLabelCrossentropy(weights=[[1.0], [-2.0]]), "at least 0. Received: -2.0"),
        (lambda: ZLPRLoss()(LABELS[:, :3], LOGITS), "must agree on C"),
    ],
)
def test_wrong_settings_are_one_line(build, words):
    with pytest.raises(InputError, match=words) as error:
        build()
    assert "\n" not in str(error.value)
