import numpy as np
import pytest
import sklearn.metrics

from mulsupcon_tf.evaluation.resampling import Chance, bootstrap_intervals, chance_results
from mulsupcon_tf.evaluation.results import (
    METRIC_NAMES,
    chance_sentence,
    evaluate_predictions,
    evaluate_splits,
    format_results_table,
)
from mulsupcon_tf.evaluation.thresholds import choose_thresholds
from tests.evaluation.results_test import random_split

TIED = (np.array([[1, 0], [0, 1], [1, 1], [0, 0]]), np.array([[0.5, 0.2], [0.5, 0.9], [0.5, 0.2], [0.1, 0.2]]))


@pytest.mark.parametrize("split", [random_split(0, samples=40), TIED], ids=["random", "tied"])
def test_intervals_are_those_of_samples_that_are_really_drawn_anew(split):
    labels, probabilities = split
    thresholds = {name: 0.3 for name in choose_thresholds(labels, probabilities)}
    rng, drawn = np.random.default_rng(0), {name: [] for name in METRIC_NAMES}
    counts = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=1000)
    for weights in counts:
        rows = np.repeat(np.arange(len(labels)), weights)
        if not labels[rows].any():
            continue
        for name, value in evaluate_predictions(labels[rows], probabilities[rows], thresholds).items():
            drawn[name].append(value)
    result = evaluate_predictions(labels, probabilities, thresholds)
    found = bootstrap_intervals(labels, probabilities, thresholds)
    assert list(found) == list(METRIC_NAMES)
    for name, ends in found.items():
        if split is not TIED or name != "mAP":  # where labels may all be gone, nothing is ranked
            expected = np.quantile(drawn[name], [0.025, 0.975]) - np.mean(drawn[name]) + result[name]
            np.testing.assert_allclose(ends, np.clip(expected, 0, 1), atol=2e-6, err_msg=name)


def test_an_interval_lies_about_its_result_where_labels_are_rare():
    """Two positives a label: a draw that holds one of them twice ranks it better than the sample does."""
    rng = np.random.default_rng(0)
    labels = np.zeros((200, 100), int)
    for label in range(100):
        labels[rng.choice(200, 2, replace=False), label] = 1
    probabilities = 1 / (1 + np.exp(-(2 * labels + rng.normal(size=labels.shape))))
    thresholds = choose_thresholds(labels, probabilities)
    result = evaluate_predictions(labels, probabilities, thresholds)
    for name, (low, high) in bootstrap_intervals(labels, probabilities, thresholds).items():
        assert low < result[name] < high, name


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    """Hamming accuracy of a coin with 80% heads, 50 times 60 samples."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(50):
        labels = np.ones((60, 1), int)
        probabilities = np.where(rng.random((60, 1)) < 0.8, 0.9, 0.1)
        low, high = bootstrap_intervals(
            labels, probabilities, dict.fromkeys(choose_thresholds(labels, probabilities), 0.5)
        )["hamming_accuracy"]
        held += low <= 0.8 <= high
    assert held >= 43


def test_chance_is_the_mean_over_many_draws():
    labels, probabilities = random_split(0, samples=300)
    thresholds = choose_thresholds(labels, probabilities)
    found = chance_results(labels, probabilities, lambda *tables: evaluate_predictions(*tables, thresholds))
    # The expectation of average precision is near the frequency; that of agreement has a closed form.
    assert found["mAP"].mean == pytest.approx(labels.mean(0).mean(), abs=0.03)
    decided = (probabilities > thresholds["hamming_accuracy"]).mean(0)
    expected = (labels.mean(0) * decided + (1 - labels.mean(0)) * (1 - decided)).mean()
    assert found["hamming_accuracy"].mean == pytest.approx(expected, abs=0.005)
    assert 0 < found["hamming_accuracy"].deviation < 0.02
    real = evaluate_predictions(labels, probabilities, thresholds)
    assert not any(found[name].covers(real[name]) for name in METRIC_NAMES)
    assert real["mAP"] == pytest.approx(sklearn.metrics.average_precision_score(labels, probabilities))


def test_predictions_of_other_samples_cannot_be_distinguished_from_random():
    labels, probabilities = random_split(2, samples=200)
    other = labels[np.random.default_rng(3).permutation(200)]
    result = evaluate_splits({"validation": (labels, probabilities), "test": (other, probabilities)})
    sentence = chance_sentence(result["test"], result["details"]["test"]["chance"])
    assert sentence.startswith("cannot be distinguished from random (the same predictions for other samples): mAP, ")
    table = format_results_table(result).splitlines()
    assert sentence in table
    assert table[0].split()[-6:] == ["threshold", "95%", "of", "test", "by", "chance"]
    mean, deviation = result["details"]["test"]["chance"]["mAP"]
    low, high = result["details"]["test"]["intervals"]["mAP"]
    assert f"{100 * low:.1f} to {100 * high:.1f}" in table[1]
    assert table[1].endswith(f"{100 * mean:.1f} ± {100 * deviation:.1f}")
    assert len({len(line) for line in table[:7]}) == 1
    assert not {"chance", "intervals"} & set(result["details"]["val"])
    good = evaluate_splits({"validation": (labels, probabilities), "test": (labels, probabilities)})
    assert "cannot be distinguished" not in format_results_table(good)
    assert good["details"]["test"] == evaluate_splits({"test": (labels, probabilities)}, "paper")["details"]["test"] | {
        name: good["details"]["test"][name] for name in ("intervals", "chance")
    }


def test_chance_covers_what_is_not_above_two_deviations():
    assert Chance(0.5, 0.1).covers(0.69)
    assert not Chance(0.5, 0.1).covers(0.71)
