import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mulsupcon_tf.evaluation import neighbours as nearest_neighbours
from mulsupcon_tf.evaluation.neighbours import bank_rows, neighbour_mean_average_precision, neighbour_scores
from mulsupcon_tf.utils.errors import InputError


def naive_scores(features, bank, bank_labels, k, temperature):
    features, bank = features.astype(np.float64), bank.astype(np.float64)
    scores = np.zeros((len(features), bank_labels.shape[1]))
    for i, r in enumerate(features):
        cosines = [float(r @ b / (np.linalg.norm(r) * np.linalg.norm(b))) for b in bank]
        nearest = sorted(range(len(bank)), key=lambda p, c=cosines: (-c[p], p))[:k]
        odds = {p: math.exp(cosines[p] / temperature) for p in nearest}
        for p in nearest:
            scores[i] += odds[p] / sum(odds.values()) * bank_labels[p]
    return scores


def tables(queries=30, bank=50, width=6, labels=4, seed=0):
    rng = np.random.default_rng(seed)
    bank_labels = (rng.random((bank, labels)) < 0.4).astype(np.uint8)
    bank_labels[:5] = 0  # neighbours without labels
    return (
        (rng.normal(size=(queries, width)) * 10.0 ** rng.uniform(-3, 3, (queries, 1))).astype(np.float32),
        (rng.normal(size=(bank, width)) * 10.0 ** rng.uniform(-3, 3, (bank, 1))).astype(np.float32),
        bank_labels,
    )


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (7, 1.0), (80, 0.07)])
def test_scores_equal_a_loop(k, temperature, monkeypatch):
    monkeypatch.setattr(nearest_neighbours, "_CHUNK", 7)  # several chunks, the last one smaller
    features, bank, bank_labels = tables()
    got = neighbour_scores(features, bank, bank_labels, num_neighbours=k, temperature=temperature)
    expected = naive_scores(features, bank, bank_labels, min(k, len(bank)), temperature)
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_map_is_that_of_scikit_learn_on_the_scores_of_the_loop():
    features, bank, bank_labels = tables(seed=3)
    labels = (np.random.default_rng(1).random((30, 4)) < 0.3).astype(np.uint8)
    labels[:, 2] = 0  # a label that no sample has is left out
    labels[4] = 0
    scores = naive_scores(features, bank, bank_labels, 20, 0.07)
    expected = np.mean([average_precision_score(labels[:, j], scores[:, j]) for j in (0, 1, 3)])
    assert neighbour_mean_average_precision(features, labels, bank, bank_labels) == pytest.approx(expected, abs=1e-4)


def test_without_a_label_there_is_no_map():
    features, bank, bank_labels = tables()
    assert neighbour_mean_average_precision(features, np.zeros((30, 4), np.uint8), bank, bank_labels) is None


def test_of_equally_near_rows_the_first_count():
    bank = np.tile(np.array([[3.0, 4.0]], np.float32), (6, 1))
    bank_labels = np.array([[1, 0], [1, 1], [0, 0], [0, 1], [0, 1], [0, 1]], np.uint8)
    got = neighbour_scores(np.array([[1.0, 1.0]], np.float32), bank, bank_labels, num_neighbours=4)
    np.testing.assert_allclose(got, [[0.5, 0.5]], atol=1e-6)


def test_features_of_zeros_give_finite_scores():
    _, bank, bank_labels = tables()
    scores = neighbour_scores(np.zeros((3, 6), np.float32), bank, bank_labels)
    np.testing.assert_allclose(scores, np.tile(bank_labels[:20].mean(axis=0), (3, 1)), atol=1e-6)


def test_the_bank_is_a_fixed_draw_of_bounded_size():
    np.testing.assert_array_equal(bank_rows(7), np.arange(7))
    rows = bank_rows(60_000)
    assert len(rows) == len(set(rows.tolist())) == 20_000
    assert rows.max() < 60_000
    assert (np.diff(rows) > 0).all()
    assert 0.45 < np.mean(rows < 30_000) < 0.55
    np.testing.assert_array_equal(rows, bank_rows(60_000))


def test_a_bank_that_does_not_fit_is_refused():
    features, bank, bank_labels = tables()
    with pytest.raises(InputError, match="tables of one R"):
        neighbour_scores(features[:, :3], bank, bank_labels)
    with pytest.raises(InputError, match=r"one length.*Received: 50 and 49"):
        neighbour_scores(features, bank, bank_labels[1:])
    with pytest.raises(InputError, match="num_neighbours must be above 0"):
        neighbour_scores(features, bank, bank_labels, num_neighbours=0)
