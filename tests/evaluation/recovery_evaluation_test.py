import json

import numpy as np
import pytest

from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.evaluation.recovery_evaluation import judge_recovery

LABELS = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]] * 4, np.uint8)
TRUTH = np.array([[0.8, 0.2, 0.0], [1.0, 0.0, 0.0], [0.0, 0.3, 0.7], [0.0, 0.0, 0.0]] * 4, np.float32)
FEATURES = np.random.default_rng(0).normal(size=(16, 5))


def dataset(count=16, labels=LABELS, truth=TRUTH):
    split = Split(np.zeros((count, 2), np.float32), labels[:count], truth[:count])
    return MultiLabelDataset("npz", "vector", ("a", "b", "c"), dict.fromkeys(("train", "validation", "test"), split))


def test_the_truth_itself_is_at_distance_0():
    recovered = np.where(TRUTH.any(1, keepdims=True), TRUTH, 1 / 3)
    judged = judge_recovery(dataset(), recovered, FEATURES, rho=0.5)["recovered"]
    assert judged["kl"] == judged["chebyshev"] == judged["clark"] == judged["canberra"] == 0
    assert judged["cosine"] == pytest.approx(1)
    assert judged["pair_concordance"] == 1


def test_controls_and_mixture_are_their_closed_forms():
    recovered = np.full_like(TRUTH, 1 / 3)
    judged = judge_recovery(dataset(), recovered, FEATURES, rho=0.25)
    assert set(judged) == {"recovered", "mixture", "uniform", "smoothed"}
    # by hand, over the three samples that have a label: |0.8 - 0.5|, |1 - 1|, |0.7 - 0.5|
    assert judged["uniform"]["chebyshev"] == pytest.approx((0.3 + 0 + 0.2) / 3, abs=1e-6)
    assert judged["uniform"]["intersection"] == pytest.approx((0.7 + 1 + 0.8) / 3, abs=1e-6)
    assert judged["uniform"]["pair_concordance"] == 0.5
    # 0.75 y/|y| + 0.25 d: (11/24, 11/24, 1/12), (10/12, 1/12, 1/12), (1/12, 11/24, 11/24)
    expected = (0.8 - 11 / 24 + 1 - 10 / 12 + 0.7 - 11 / 24) / 3
    assert judged["mixture"]["chebyshev"] == pytest.approx(expected, abs=1e-6)
    assert judged["recovered"]["chebyshev"] == pytest.approx((0.8 - 1 / 3 + 2 / 3 + 0.7 - 1 / 3) / 3, abs=1e-6)


def test_a_test_split_with_fewer_samples_than_neighbours_is_judged_too():
    judged = judge_recovery(dataset(5), np.full((5, 3), 1 / 3), FEATURES[:5], rho=0.5)
    assert judged["smoothed"]["chebyshev"] >= 0


def test_the_results_are_json_where_a_measure_is_not_defined():
    single = np.eye(3, dtype=np.uint8)[np.arange(16) % 3]  # no sample has a pair of labels to be put in order
    judged = judge_recovery(
        dataset(labels=single, truth=single.astype(np.float32)), np.full((16, 3), 1 / 3), FEATURES, 0.5
    )
    text = json.dumps(judged, allow_nan=False)
    assert json.loads(text)["recovered"]["pair_concordance"] is None
