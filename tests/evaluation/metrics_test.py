import numpy as np
import pytest
import sklearn.metrics

from mulsupcon_tf.evaluation import metrics
from mulsupcon_tf.utils.errors import InputError

BINARY_METRICS = (metrics.macro_f1, metrics.micro_f1, metrics.hamming_accuracy, metrics.example_f1)


def random_tables(seed, samples=60, labels=7):
    """Ties in the scores, a sample without labels, a label without positives, a sample with no prediction."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((samples, labels)) < rng.uniform(0.05, 0.6, labels)).astype(np.uint8)
    truth[3] = 0
    truth[:, 2] = 0
    scores = np.round(np.clip(0.3 * truth + 0.7 * rng.random((samples, labels)), 0, 1), 1)
    scores[3:5] = 0.05
    return truth, scores


def naive_average_precision(truth, scores):
    """Sweep the thresholds from the highest score down: Σ (R_n − R_{n−1}) P_n."""
    total, recall_before, area = truth.sum(), 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        hits = sum(1 for t, s in zip(truth, scores, strict=True) if s >= threshold and t)
        retrieved = sum(1 for s in scores if s >= threshold)
        area += (hits / total - recall_before) * hits / retrieved
        recall_before = hits / total
    return area


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_scikit_learn_and_a_threshold_sweep_with_ties(seed):
    truth, scores = random_tables(seed)
    result = metrics.average_precisions(truth, scores)
    assert np.isnan(result[2])
    for label in (0, 1, 3, 4, 5, 6):
        expected = sklearn.metrics.average_precision_score(truth[:, label], scores[:, label])
        assert result[label] == pytest.approx(expected, abs=1e-12)
        assert result[label] == pytest.approx(naive_average_precision(truth[:, label], scores[:, label]), abs=1e-12)


def test_average_precision_of_hand_made_rankings():
    truth = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    scores = np.array([[0.9, 0.5, 0.9], [0.8, 0.5, 0.8], [0.7, 0.5, 0.7], [0.6, 0.5, 0.1]])
    # Ranks 1 and 3: (1/1 + 2/3) / 2. All tied: the prevalence. Last of four: 1/4.
    np.testing.assert_allclose(metrics.average_precisions(truth, scores), [5 / 6, 1 / 2, 1 / 4])


def test_mean_average_precision_leaves_out_and_names_labels_without_positives():
    truth, scores = random_tables(0)
    kept = [0, 1, 3, 4, 5, 6]
    expected = sklearn.metrics.average_precision_score(truth[:, kept], scores[:, kept], average="macro")
    assert metrics.mean_average_precision(truth, scores) == pytest.approx(expected, abs=1e-12)
    assert metrics.labels_without_positives(truth) == [2]


def test_mean_average_precision_of_no_positive_at_all_is_refused():
    with pytest.raises(InputError, match=r"mAP needs a label with a positive sample\. Received: 4 samples"):
        metrics.mean_average_precision(np.zeros((4, 3)), np.full((4, 3), 0.5))


def test_precision_at_1_counts_unlabelled_samples_as_wrong_and_shares_ties():
    truth = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1]])
    scores = np.array(
        [
            [0.9, 0.1, 0.2],  # right
            [0.9, 0.1, 0.2],  # has no label: wrong
            [0.2, 0.5, 0.5],  # a tie of two right ones: 1
            [0.5, 0.5, 0.5],  # a tie of three, one right: 1/3
            [0.3, 0.4, 0.1],  # wrong
        ]
    )
    assert metrics.precision_at_1(truth, scores) == pytest.approx((1 + 0 + 1 + 1 / 3 + 0) / 5)
    order = [2, 0, 1]
    assert metrics.precision_at_1(truth[:, order], scores[:, order]) == pytest.approx((2 + 1 / 3) / 5)


@pytest.mark.parametrize("seed", range(3))
def test_set_metrics_equal_scikit_learn(seed):
    truth, scores = random_tables(seed)
    predicted = (scores > 0.5).astype(int)
    predicted[:, 2] = 0  # neither present nor predicted

    def reference(average, empty):
        return sklearn.metrics.f1_score(truth, predicted, average=average, zero_division=empty)

    assert metrics.macro_f1(truth, predicted) == pytest.approx(reference("macro", 0), abs=1e-12)
    assert metrics.micro_f1(truth, predicted) == pytest.approx(reference("micro", 0), abs=1e-12)
    assert metrics.example_f1(truth, predicted) == pytest.approx(reference("samples", 1), abs=1e-12)
    loss = sklearn.metrics.hamming_loss(truth, predicted)
    assert metrics.hamming_accuracy(truth, predicted) == pytest.approx(1 - loss, abs=1e-12)


def test_set_metrics_of_hand_made_predictions():
    truth = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    predicted = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]])
    assert metrics.macro_f1(truth, predicted) == pytest.approx((1 + 2 / 3 + 0 + 0) / 4)
    assert metrics.micro_f1(truth, predicted) == pytest.approx(2 * 2 / (3 + 3))
    assert metrics.hamming_accuracy(truth, predicted) == pytest.approx(14 / 16)
    assert metrics.example_f1(truth, predicted) == pytest.approx((2 / 3 + 1 + 0 + 1) / 4)


def test_nothing_present_and_nothing_predicted():
    nothing = np.zeros((3, 2), dtype=int)
    assert [metric(nothing, nothing) for metric in BINARY_METRICS] == [0, 0, 1, 1]
    assert set(metrics.class_and_overall_f1(nothing, nothing).values()) == {0.0}


@pytest.mark.parametrize("seed", range(3))
def test_class_and_overall_f1_equal_a_loop_over_labels(seed):
    truth, scores = random_tables(seed)
    predicted = (scores > 0.5).astype(int)
    predicted[:, 4] = 0  # present, never predicted: precision 0
    precisions, recalls, totals = [], [], np.zeros(3)
    for t, p in zip(truth.T, predicted.T, strict=True):
        hits = sum(1 for a, b in zip(t, p, strict=True) if a and b)
        precisions.append(hits / p.sum() if p.sum() else 0.0)
        recalls.append(hits / t.sum() if t.sum() else 0.0)
        totals += [hits, p.sum(), t.sum()]
    cp, cr = sum(precisions) / 7, sum(recalls) / 7
    op, overall_recall = totals[0] / totals[1], totals[0] / totals[2]
    result = metrics.class_and_overall_f1(truth, predicted)
    expected = {
        "CP": cp,
        "CR": cr,
        "CF1": 2 * cp * cr / (cp + cr),
        "OP": op,
        "OR": overall_recall,
        "OF1": 2 * op * overall_recall / (op + overall_recall),
    }
    assert result == pytest.approx(expected, abs=1e-12)
    assert result["OF1"] == pytest.approx(sklearn.metrics.f1_score(truth, predicted, average="micro"), abs=1e-12)


def test_groups_by_training_frequency():
    # Average precisions by column: 1, 1/2, undefined, 1/3, 1, 1/4, 1/2.
    truth = np.zeros((4, 7), dtype=int)
    scores = np.tile([[0.8], [0.6], [0.4], [0.2]], (1, 7))
    for column, rank in {0: 1, 1: 2, 3: 3, 4: 1, 5: 4, 6: 2}.items():
        truth[rank - 1, column] = 1
    frequencies = [5, 90, 40, 40, 7, 60, 1]
    # Sorted: 1 (90), 5 (60), 2 (40), 3 (40) | 4 (7), 0 (5), 6 (1): seven labels make groups of 3, 2 and 2.
    assert metrics.grouped_average_precision(truth, scores, frequencies) == pytest.approx(
        {"head": (1 / 2 + 1 / 4) / 2, "medium": (1 / 3 + 1) / 2, "tail": (1 + 1 / 2) / 2}
    )


def test_a_group_without_positives_is_nan():
    truth, scores = np.array([[1, 0, 0], [0, 0, 1]]), np.array([[0.9, 0.1, 0.3], [0.1, 0.9, 0.2]])
    result = metrics.grouped_average_precision(truth, scores, [3, 2, 1])
    assert result["head"] == 1.0
    assert result["tail"] == 0.5
    assert np.isnan(result["medium"])


@pytest.mark.parametrize("frequencies", [[1, 2], [[1, 2, 3]], [1, 2, np.nan], [1, -2, 3]])
def test_bad_training_frequencies_are_refused(frequencies):
    with pytest.raises(InputError, match=r"train_frequencies must .* Received: "):
        metrics.grouped_average_precision(np.eye(3), np.eye(3), frequencies)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", [metrics.average_precisions, metrics.mean_average_precision, metrics.precision_at_1])
def test_scores_that_are_not_finite_are_refused(metric, bad):
    scores = np.eye(3)
    scores[1, 2] = bad
    with pytest.raises(InputError, match=r"must be finite\. Received: -?(nan|inf) for sample 1, label 2 \(1 such"):
        metric(np.eye(3), scores)


@pytest.mark.parametrize("metric", BINARY_METRICS)
@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        (np.eye(3), np.eye(3)[:2], r"predictions must have the shape of labels\. Received: predictions \(2, 3\)"),
        (np.eye(3) * 2, np.eye(3), r"labels must be 0 or 1\. Received: labels with the value 2"),
        (np.eye(3), np.full((3, 3), 0.5), r"predictions must be 0 or 1\. Received: .* 0\.5"),
        (np.ones(3), np.ones(3), r"labels must be a table .* Received: shape \(3,\)"),
        (np.ones((0, 3)), np.ones((0, 3)), r"labels must be a table .* Received: shape \(0, 3\)"),
    ],
)
def test_tables_that_do_not_fit_are_refused(metric, truth, predicted, message):
    with pytest.raises(InputError, match=message):
        metric(truth, predicted)
