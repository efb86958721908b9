import math

import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.losses.diagnostics import alignment, uniformity
from mulsupcon_tf.utils.errors import InputError


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def random_unit_rows(count, dimensions, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(count, dimensions)))


def naive_alignment(queries, keys):
    return sum(sum((a - b) ** 2 for a, b in zip(q, k, strict=True)) for q, k in zip(queries, keys, strict=True)) / len(
        queries
    )


def naive_uniformity(rows):
    pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
    return math.log(sum(math.exp(-2 * np.sum((rows[i] - rows[j]) ** 2)) for i, j in pairs) / len(pairs))


@pytest.mark.parametrize("count", [2, 3, 9])
def test_both_equal_a_loop(count):
    queries, keys = random_unit_rows(count, 4), random_unit_rows(count, 4, seed=1)
    assert float(alignment(queries, keys)) == pytest.approx(naive_alignment(queries, keys), abs=1e-12)
    assert float(uniformity(queries)) == pytest.approx(naive_uniformity(queries), abs=1e-12)
    assert float(uniformity(queries.astype(np.float32))) == pytest.approx(naive_uniformity(queries), abs=1e-5)


def test_one_point_has_perfect_alignment_and_no_uniformity():
    rows = np.repeat(random_unit_rows(1, 6), 8, axis=0).astype(np.float32)
    assert float(alignment(rows, rows)) == 0
    assert float(uniformity(rows)) == pytest.approx(0, abs=1e-6)


def test_opposite_points_are_the_extremes():
    rows = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert float(alignment(rows, -rows)) == pytest.approx(4)
    assert float(uniformity(rows)) == pytest.approx(-8)


def test_rows_spread_over_a_large_sphere_come_near_minus_four():
    assert float(uniformity(random_unit_rows(512, 128))) == pytest.approx(-4 + 8 / 128, abs=0.01)


def test_a_batch_of_one_has_no_pair_and_stays_finite():
    assert float(uniformity(random_unit_rows(1, 5))) == 0


def test_an_unknown_batch_size_is_compiled():
    compiled = tf.function(uniformity, input_signature=[tf.TensorSpec([None, 4], tf.float32)])
    rows = random_unit_rows(5, 4)
    assert float(compiled(tf.constant(rows, tf.float32))) == pytest.approx(naive_uniformity(rows), abs=1e-5)


def test_views_of_different_batches_are_refused():
    with pytest.raises(InputError, match="must agree on B"):
        alignment(np.ones((3, 2)), np.ones((4, 2)))
