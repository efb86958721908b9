import json
import math

import numpy as np
import pytest

from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.evaluation import distribution_distances as distances
from mulsupcon_tf.evaluation.distribution_distances import judge_recovery
from mulsupcon_tf.utils.errors import InputError

LABELS = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]] * 4, np.uint8)
TRUTH = np.array([[0.8, 0.2, 0.0], [1.0, 0.0, 0.0], [0.0, 0.3, 0.7], [0.0, 0.0, 0.0]] * 4, np.float32)
FEATURES = np.random.default_rng(0).normal(size=(16, 5))

MEASURES = {
    "kl": distances.kl_divergence,
    "chebyshev": distances.chebyshev_distance,
    "clark": distances.clark_distance,
    "canberra": distances.canberra_distance,
    "cosine": distances.cosine_similarity,
    "intersection": distances.intersection_similarity,
}


def naive_row(t, r):
    """The six measures of one sample, as sums over its labels."""
    pairs = list(zip(t, r, strict=True))
    relative = [abs(a - b) / (a + b) for a, b in pairs if a + b > 0]
    return {
        "kl": sum(a * (math.log(a) - math.log(max(b, 1e-7))) for a, b in pairs if a > 0),
        "chebyshev": max(abs(a - b) for a, b in pairs),
        "clark": math.sqrt(sum(x * x for x in relative)),
        "canberra": sum(relative),
        "cosine": sum(a * b for a, b in pairs) / math.hypot(*t) / math.hypot(*r),
        "intersection": sum(min(a, b) for a, b in pairs),
    }


def random_distributions(seed, samples=40, labels=6):
    """Truth on the labels only, recovered with mass everywhere; the first two samples have no label."""
    rng = np.random.default_rng(seed)
    relevant = rng.random((samples, labels)) < 0.5
    relevant[2:, 0] |= ~relevant[2:].any(axis=1)
    relevant[:2] = False
    truth = np.zeros((samples, labels))
    for row in range(2, samples):
        mass = rng.integers(1, 6, relevant[row].sum()).astype(float)  # integers: some pairs are equal
        truth[row, relevant[row]] = mass / mass.sum()
    recovered = rng.dirichlet(np.ones(labels), samples)
    return truth, recovered, relevant.astype(np.uint8)


@pytest.mark.parametrize("name", MEASURES)
def test_measures_of_one_sample_in_closed_form(name):
    truth, recovered = np.array([[0.5, 0.5, 0.0]]), np.array([[0.25, 0.25, 0.5]])
    expected = {
        "kl": math.log(2),
        "chebyshev": 0.5,
        "clark": math.sqrt(2 / 9 + 1),
        "canberra": 1 / 3 + 1 / 3 + 1,
        "cosine": 0.25 / (math.sqrt(0.5) * math.sqrt(0.375)),
        "intersection": 0.5,
    }
    assert MEASURES[name](truth, recovered) == pytest.approx(expected[name], abs=1e-12)
    # On the relevant labels the recovered row is (1/2, 1/2): exact.
    perfect = 1.0 if name in ("cosine", "intersection") else 0.0
    assert MEASURES[name](truth, recovered, np.array([[1, 1, 0]])) == pytest.approx(perfect, abs=1e-12)


def test_kl_prices_a_missing_label_by_its_floor():
    assert distances.kl_divergence(np.array([[0.25, 0.75]]), np.array([[0.0, 1.0]])) == pytest.approx(
        0.25 * math.log(0.25 / 1e-7) + 0.75 * math.log(0.75), abs=1e-12
    )


def test_labels_without_mass_on_either_side_add_nothing():
    truth, recovered = np.array([[0.5, 0.5, 0.0, 0.0]]), np.array([[0.5, 0.5, 0.0, 0.0]])
    assert [measure(truth, recovered) for measure in MEASURES.values()] == pytest.approx([0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize("seed", range(3))
def test_all_measures_equal_a_loop_over_samples(seed):
    truth, recovered, relevant = random_distributions(seed)
    everywhere, restricted = [], []
    for t, r, y in zip(truth[2:], recovered[2:], relevant[2:], strict=True):
        everywhere.append(naive_row(t, r))
        own = np.flatnonzero(y)
        restricted.append(naive_row(t[own] / t[own].sum(), r[own] / r[own].sum()))
    result = distances.compare_distributions(truth, recovered, relevant)
    for name in MEASURES:
        assert result[name] == pytest.approx(np.mean([row[name] for row in everywhere]), abs=1e-10)
        assert result[f"{name}_relevant"] == pytest.approx(np.mean([row[name] for row in restricted]), abs=1e-10)
    assert len(result) == 13


@pytest.mark.parametrize("seed", range(3))
def test_pair_concordance_equals_a_loop_over_pairs(seed):
    truth, recovered, relevant = random_distributions(seed)
    recovered = np.round(recovered * 4) / 4  # ties in the prediction
    recovered[:, 0] += 1 - recovered.sum(axis=1)
    recovered = np.clip(recovered, 0, None) / np.clip(recovered, 0, None).sum(axis=1, keepdims=True)
    right = pairs = 0.0
    for t, r, y in zip(truth, recovered, relevant, strict=True):
        for j in range(6):
            for k in range(j):
                if y[j] and y[k] and t[j] != t[k]:
                    pairs += 1
                    right += 0.5 if r[j] == r[k] else float((t[j] > t[k]) == (r[j] > r[k]))
    assert distances.pair_concordance(truth, recovered, relevant) == pytest.approx(right / pairs, abs=1e-12)


def test_pair_concordance_of_hand_made_orders():
    truth = np.array([[0.6, 0.3, 0.1, 0.0], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    labels = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    # Pairs of the first sample: 0>1 wrong, 0>2 tied, 1>2 right. The second sample's only pair is truly equal.
    recovered = np.array([[0.2, 0.3, 0.2, 0.3], [0.9, 0.1, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    assert distances.pair_concordance(truth, recovered, labels) == pytest.approx(1.5 / 3)
    assert distances.pair_concordance(truth, truth[[0, 1, 2]], labels) == 1.0
    assert distances.pair_concordance(truth, distances.uniform_label_distribution(labels), labels) == 0.5


def test_pair_concordance_without_a_pair_is_nan():
    single = np.eye(3)
    assert math.isnan(distances.pair_concordance(single, single, single))


def test_a_recovered_row_without_mass_on_the_labels_counts_as_uniform_over_them():
    truth, recovered = np.array([[0.75, 0.25, 0.0]]), np.array([[0.0, 0.0, 1.0]])
    assert distances.chebyshev_distance(truth, recovered, np.array([[1, 1, 0]])) == pytest.approx(0.25)


def test_samples_without_labels_are_left_out():
    truth = np.array([[0.0, 0.0], [0.5, 0.5]])
    recovered = np.array([[0.0, 0.0], [0.7, 0.3]])
    assert distances.chebyshev_distance(truth, recovered) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("truth", "recovered", "labels", "message"),
    [
        (np.eye(3), np.eye(3)[:2], None, r"tables \[samples, labels\] of one shape\. Received: truth \(3, 3\)"),
        (np.eye(3), np.eye(3) * 0.5, None, r"rows of recovered must sum to 1\. Received: .* off by 0\.5"),
        (np.eye(3) * 2, np.eye(3), None, r"rows of truth must sum to 1\. Received: .* off by 1"),
        (np.eye(3), np.eye(3) * np.nan, None, r"recovered must hold finite numbers"),
        (np.eye(2), np.array([[1.5, -0.5], [0, 1]]), None, r"not negative\. Received: minimum -0\.5"),
        (np.zeros((3, 3)), np.eye(3), None, r"a sample with a label\. Received: 3 samples"),
        (np.eye(3), np.eye(3), np.eye(3)[::-1], r"mass on the labels of its sample"),
        (np.eye(3), np.eye(3), np.eye(4), r"labels must have the shape of truth\. Received: labels \(4, 4\)"),
        (np.eye(3), np.eye(3), np.eye(3) / 2, r"labels must be 0 or 1\. Received: labels with the value 0\.5"),
    ],
)
def test_what_is_no_distribution_is_refused(truth, recovered, labels, message):
    with pytest.raises(InputError, match=message):
        distances.kl_divergence(truth, recovered, labels)


def test_uniform_distribution():
    np.testing.assert_array_equal(
        distances.uniform_label_distribution(np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]])),
        [[0.5, 0, 0.5, 0], [0, 0, 0, 0], [0, 1, 0, 0]],
    )


@pytest.mark.parametrize("offset", [0.0, 1e8])  # the second cancels where distances are taken between large numbers
def test_smoothed_distribution_equals_a_loop_over_samples(offset):
    rng = np.random.default_rng(0)
    samples, neighbours = 1100, 7  # more than two chunks
    labels = (rng.random((samples, 5)) < 0.4).astype(np.uint8)
    labels[:3] = 0
    features = rng.normal(size=(samples, 4)) + offset
    result = distances.smoothed_label_distribution(labels, features, neighbours)
    uniform = [y / y.sum() if y.any() else np.zeros(5) for y in labels]
    for i in range(samples):
        distance = np.linalg.norm(features - features[i], axis=1)
        others = [p for p in np.argsort(distance) if p != i]
        mean = (uniform[i] + sum(uniform[p] for p in others[:neighbours])) / (neighbours + 1)
        own = mean * labels[i]
        np.testing.assert_allclose(result[i], own / own.sum() if labels[i].any() else 0 * own, atol=1e-12)


def test_smoothing_recovers_an_order_that_the_neighbours_know():
    # Around 0 all others carry label 0 alone, around 1 label 1 alone.
    labels = np.array([[1, 1], [1, 0], [1, 0], [1, 1], [0, 1], [0, 1], [0, 0]])
    features = np.array([[0.0], [0.01], [0.02], [1.0], [1.01], [1.02], [50.0]])
    result = distances.smoothed_label_distribution(labels, features, neighbours=2)
    np.testing.assert_allclose(result[0], [5 / 6, 1 / 6])
    np.testing.assert_allclose(result[3], [1 / 6, 5 / 6])
    np.testing.assert_array_equal(result[6], [0, 0])


@pytest.mark.parametrize(
    ("features", "neighbours", "message"),
    [
        (np.ones((3, 2)), 1, r"a row per sample of labels, 4\. Received: shape \(3, 2\)"),
        (np.ones(4), 1, r"Received: shape \(4,\)"),
        (np.full((4, 2), np.nan), 1, r"features must be finite"),
        (np.ones((4, 2)), 4, r"between 1 and the number of other samples, 3\. Received: 4"),
        (np.ones((4, 2)), 0, r"Received: 0"),
    ],
)
def test_bad_features_are_refused(features, neighbours, message):
    with pytest.raises(InputError, match=message):
        distances.smoothed_label_distribution(np.eye(4), features, neighbours)


def dataset(count=16, labels=LABELS, truth=TRUTH):
    split = Split(np.zeros((count, 2), np.float32), labels[:count], truth[:count])
    return MultiLabelDataset("npz", "vector", ("a", "b", "c"), dict.fromkeys(("train", "validation", "test"), split))


def test_the_truth_itself_is_at_distance_0():
    recovered = np.where(TRUTH.any(1, keepdims=True), TRUTH, 1 / 3)
    judged = judge_recovery(dataset(), recovered, FEATURES)["recovered"]
    assert judged["kl"] == judged["chebyshev"] == judged["clark"] == judged["canberra"] == 0
    assert judged["cosine"] == pytest.approx(1)
    assert judged["pair_concordance"] == 1


def test_controls_are_their_closed_forms():
    recovered = np.full_like(TRUTH, 1 / 3)
    judged = judge_recovery(dataset(), recovered, FEATURES)
    assert set(judged) == {"recovered", "uniform", "smoothed"}
    # by hand, over the three samples that have a label: |0.8 - 0.5|, |1 - 1|, |0.7 - 0.5|
    assert judged["uniform"]["chebyshev"] == pytest.approx((0.3 + 0 + 0.2) / 3, abs=1e-6)
    assert judged["uniform"]["intersection"] == pytest.approx((0.7 + 1 + 0.8) / 3, abs=1e-6)
    assert judged["uniform"]["pair_concordance"] == 0.5
    assert judged["recovered"]["chebyshev"] == pytest.approx((0.8 - 1 / 3 + 2 / 3 + 0.7 - 1 / 3) / 3, abs=1e-6)


def test_a_test_split_with_fewer_samples_than_neighbours_is_judged_too():
    judged = judge_recovery(dataset(5), np.full((5, 3), 1 / 3), FEATURES[:5])
    assert judged["smoothed"]["chebyshev"] >= 0


def test_a_test_split_of_one_sample_has_no_neighbours_to_be_smoothed_over():
    judged = judge_recovery(dataset(1), np.full((1, 3), 1 / 3), FEATURES[:1])
    assert judged["smoothed"] == judged["uniform"]
    assert judged["uniform"]["chebyshev"] == pytest.approx(0.3)  # by hand: |0.8 - 0.5|


def test_the_results_are_json_where_a_measure_is_not_defined():
    single = np.eye(3, dtype=np.uint8)[np.arange(16) % 3]  # no sample has a pair of labels to be put in order
    judged = judge_recovery(dataset(labels=single, truth=single.astype(np.float32)), np.full((16, 3), 1 / 3), FEATURES)
    text = json.dumps(judged, allow_nan=False)
    assert json.loads(text)["recovered"]["pair_concordance"] is None
