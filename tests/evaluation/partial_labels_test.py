"""Unknown labels, NaN, are left out of everything that judges: held against plain loops over the known ones."""

import itertools

import numpy as np
import pytest
import sklearn.metrics

from mulsupcon_tf.evaluation import metrics
from mulsupcon_tf.evaluation.calibration import fit_calibration, reliability
from mulsupcon_tf.evaluation.label_thresholds import choose_label_thresholds
from mulsupcon_tf.evaluation.resampling import bootstrap_intervals
from mulsupcon_tf.evaluation.results import METRIC_NAMES, evaluate_predictions, evaluate_splits
from mulsupcon_tf.evaluation.thresholds import THRESHOLD_GRID, choose_thresholds
from mulsupcon_tf.utils.errors import InputError
from tests.evaluation.results_test import random_split

THRESHOLDS = {"macro_f1": 0.3, "micro_f1": 0.4, "hamming_accuracy": 0.5, "example_f1": 0.35}


def partial_split(seed, samples=50):
    labels, probabilities = random_split(seed, samples=samples)
    hidden = np.random.default_rng(seed + 100).random(labels.shape) < 0.35
    labels = np.where(hidden, np.nan, labels)
    labels[3] = np.nan  # nothing is known of a sample
    return labels, probabilities


def pairs(labels, probabilities, threshold, *, of):
    """(truth, decision) of the known labels of a sample (`of=0`) or of a label (1), one list each."""
    tables = (labels, probabilities) if of == 0 else (labels.T, probabilities.T)
    return [
        [(y == 1, p > threshold) for y, p in zip(known, scores, strict=True) if not np.isnan(y)]
        for known, scores in zip(*tables, strict=True)
    ]


def f1(decisions, empty):
    hits = sum(truth and given for truth, given in decisions)
    size = sum(truth for truth, _ in decisions) + sum(given for _, given in decisions)
    return 2 * hits / size if size else empty


def naive_metrics(labels, probabilities, thresholds):
    precisions = [
        sklearn.metrics.average_precision_score(truth[~np.isnan(truth)], scores[~np.isnan(truth)])
        for truth, scores in zip(labels.T, probabilities.T, strict=True)
        if (truth == 1).any()
    ]
    right = []
    for known, scores in zip(labels, probabilities, strict=True):
        seen = [(p, y) for p, y in zip(scores, known, strict=True) if not np.isnan(y)]
        if seen:
            right.append(max(seen)[1])
    by_label = pairs(labels, probabilities, thresholds["macro_f1"], of=1)
    by_sample = [each for each in pairs(labels, probabilities, thresholds["example_f1"], of=0) if each]
    pooled = [*itertools.chain(*pairs(labels, probabilities, thresholds["micro_f1"], of=0))]
    decided = [*itertools.chain(*pairs(labels, probabilities, thresholds["hamming_accuracy"], of=0))]
    return {
        "mAP": np.mean(precisions),
        "precision_at_1": np.mean(right),
        "macro_f1": np.mean([f1(each, 0.0) for each in by_label]),
        "micro_f1": f1(pooled, 0.0),
        "hamming_accuracy": np.mean([truth == given for truth, given in decided]),
        "example_f1": np.mean([f1(each, 1.0) for each in by_sample]),
    }


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_the_known_labels(seed):
    labels, probabilities = partial_split(seed)
    found = evaluate_predictions(labels, probabilities, THRESHOLDS)
    assert found == pytest.approx(naive_metrics(labels, probabilities, THRESHOLDS))
    other = np.where(np.isnan(labels), 1 - probabilities, probabilities)  # of what is unknown nothing counts
    assert evaluate_predictions(labels, other, THRESHOLDS) == pytest.approx(found)


def test_where_all_labels_are_known_nothing_changes():
    labels, probabilities = random_split(0)
    for judge in (
        lambda table: evaluate_predictions(table, probabilities, THRESHOLDS),
        lambda table: choose_thresholds(table, probabilities),
        lambda table: choose_label_thresholds(table, probabilities),
        lambda table: reliability(table, probabilities),
        lambda table: bootstrap_intervals(table, probabilities, THRESHOLDS),
        lambda table: metrics.class_and_overall_f1(table, probabilities > 0.5),
    ):
        assert judge(labels) == judge(labels.astype(float))


def test_thresholds_are_the_best_of_the_known_labels():
    labels, probabilities = partial_split(1)
    chosen = choose_thresholds(labels, probabilities)
    for name, threshold in chosen.items():
        scores = [
            naive_metrics(labels, probabilities, THRESHOLDS | {name: candidate})[name] for candidate in THRESHOLD_GRID
        ]
        best = naive_metrics(labels, probabilities, THRESHOLDS | {name: threshold})[name]
        assert best == pytest.approx(max(scores), abs=1e-9)
    own = choose_label_thresholds(labels, probabilities)
    other = np.where(np.isnan(labels), 1 - probabilities, probabilities)
    assert own == choose_label_thresholds(labels, other)


def test_calibration_sees_known_labels_alone():
    labels, probabilities = partial_split(2, samples=400)
    logits, known = np.log(probabilities / (1 - probabilities)), ~np.isnan(labels)
    one_by_one = labels[known][:, None], logits[known][:, None]
    assert fit_calibration(labels, logits, with_offset=True) == pytest.approx(
        fit_calibration(*one_by_one, with_offset=True), rel=1e-4
    )
    np.testing.assert_allclose(
        reliability(labels, probabilities), reliability(labels[known][:, None], probabilities[known][:, None])
    )


def test_intervals_are_of_the_known_labels():
    labels, probabilities = partial_split(0)
    found = bootstrap_intervals(labels, probabilities, THRESHOLDS)
    rng, drawn = np.random.default_rng(0), {name: [] for name in METRIC_NAMES}
    for weights in rng.multinomial(50, np.full(50, 1 / 50), size=1000):
        rows = np.repeat(np.arange(50), weights)
        for name, value in evaluate_predictions(labels[rows], probabilities[rows], THRESHOLDS).items():
            drawn[name].append(value)
    result = evaluate_predictions(labels, probabilities, THRESHOLDS)
    for name, ends in found.items():
        expected = np.quantile(drawn[name], [0.025, 0.975]) - np.mean(drawn[name]) + result[name]
        np.testing.assert_allclose(ends, expected, atol=2e-6, err_msg=name)


def test_results_count_samples_without_labels_among_those_of_which_one_is_known():
    labels, probabilities = partial_split(0)
    labels[4] = [0, np.nan, 0, 0, np.nan, 0]
    details = evaluate_splits({"test": (labels, probabilities)}, "0.5")["details"]["test"]
    expected = sum((row != 1).all() and not np.isnan(row).all() for row in labels)
    assert details["samples_without_labels"] == expected
    with pytest.raises(InputError, match=r"labels must be 0 or 1\. Received: labels with the value 2"):
        metrics.mean_average_precision(np.where(np.isnan(labels), 2, labels), probabilities)
