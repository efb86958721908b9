import numpy as np
import pytest
import sklearn.metrics

from mulsupcon_tf.evaluation.label_thresholds import choose_label_thresholds
from mulsupcon_tf.evaluation.results import evaluate_predictions, evaluate_splits, format_results_table
from mulsupcon_tf.evaluation.thresholds import THRESHOLD_GRID, above, choose_thresholds
from tests.evaluation.results_test import random_split, reference_scores


def own_thresholds(labels, chosen, common):
    """What was chosen before it was drawn towards the common threshold; that of a label without positives is not known."""
    number = labels.sum(axis=0)
    return {
        name: (np.array(values) * (number + 10) - 10 * common[name]) / np.maximum(number, 1)
        for name, values in chosen.items()
    }


@pytest.fixture(scope="module", params=[0, pytest.param(1, marks=pytest.mark.slow)])
def problem(request):
    labels, probabilities = random_split(request.param, samples=60, labels=5)
    return labels, probabilities, choose_label_thresholds(labels, probabilities)


def test_no_single_label_could_do_better(problem):
    labels, probabilities, chosen = problem
    common = choose_thresholds(labels, probabilities)
    for name, own in own_thresholds(labels, chosen, common).items():
        assert np.abs(own[:, None] - THRESHOLD_GRID).min(axis=1).max() < 1e-9  # candidates
        decided = above(probabilities, own.round(10))
        best = reference_scores(labels, decided)[name]
        assert best >= reference_scores(labels, above(probabilities, common[name]))[name]
        for label in range(labels.shape[1]):
            for threshold in THRESHOLD_GRID:
                other = decided.copy()
                other[:, label] = above(probabilities[:, label], threshold)
                assert reference_scores(labels, other)[name] <= best + 1e-11


def test_few_positives_draw_a_threshold_to_the_common_one():
    rng = np.random.default_rng(0)
    labels = np.zeros((200, 3), int)
    labels[:100, 0], labels[:10, 1] = 1, 1  # 100 positives, ten, none
    probabilities = rng.random(labels.shape) * 0.2 + 0.7 * labels * [1, 0.4, 1]
    common = choose_thresholds(labels, probabilities)["macro_f1"]
    chosen = choose_label_thresholds(labels, probabilities)["macro_f1"]
    own = []
    for label in (0, 1):
        scores = [
            sklearn.metrics.f1_score(labels[:, label], above(probabilities[:, label], threshold), zero_division=0)
            for threshold in THRESHOLD_GRID
        ]
        tied = [t for t, score in zip(THRESHOLD_GRID, scores, strict=True) if score > max(scores) - 1e-11]
        own.append(min(tied, key=lambda threshold: abs(threshold - common)))
    expected = [(100 * own[0] + 10 * common) / 110, (own[1] + common) / 2, common]
    assert chosen == pytest.approx(expected)


def test_results_by_label_are_those_of_their_thresholds():
    validation, test = random_split(0), random_split(1)
    result = evaluate_splits({"validation": validation, "test": test}, "per_label")
    chosen = choose_label_thresholds(*validation)
    assert result["thresholds"] == chosen
    assert (result["threshold_policy"], result["optimistic"]) == ("per_label", False)
    for name, values in chosen.items():
        decided = np.array(test[1], np.float32) > np.array(values, np.float32)
        assert result["test"][name] == pytest.approx(reference_scores(test[0], decided)[name])
    assert result["val"] == evaluate_predictions(*validation, chosen)
    lines = format_results_table(result).splitlines()
    assert "  per label  " in lines[3]
    assert "thresholds were chosen on validation, one a label; with few positives near the common one" in lines
