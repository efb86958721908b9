import math

import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.losses.diagnostics import (
    DIAGNOSTICS,
    alignment,
    diagnostics,
    diagnostics_of_distributions,
    distribution_entropy,
    label_leak,
    uniformity,
)
from mulsupcon_tf.losses.method import count
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


def test_those_of_a_batch_have_their_names_and_no_gradient():
    queries, keys = (tf.constant(random_unit_rows(6, 4, seed)) for seed in (0, 1))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(queries)
        found = diagnostics(queries, keys)
    assert tuple(found) == DIAGNOSTICS
    assert tape.gradient(list(found.values()), queries) is None
    assert float(found["alignment"]) == pytest.approx(naive_alignment(queries.numpy(), keys.numpy()))
    assert float(found["uniformity"]) == pytest.approx(naive_uniformity(queries.numpy()))
    deviations = [np.sqrt(np.mean((column - column.mean()) ** 2)) for column in queries.numpy().T]
    assert float(found["embedding_std"]) == pytest.approx(np.mean(deviations) * 2)


def test_the_deviation_is_0_in_one_point_and_near_1_all_over_the_sphere():
    point, sphere = np.repeat(random_unit_rows(1, 6), 8, axis=0), random_unit_rows(4096, 16)
    assert float(diagnostics(tf.constant(point), point)["embedding_std"]) == pytest.approx(0, abs=1e-12)
    assert float(diagnostics(tf.constant(sphere), sphere)["embedding_std"]) == pytest.approx(1, abs=0.02)


def test_of_a_large_batch_uniformity_is_that_of_its_first_rows():
    rows = tf.constant(random_unit_rows(2048, 3), tf.float32)
    assert float(diagnostics(rows, rows)["uniformity"]) == float(uniformity(rows[:1024]))
    large = tf.TensorSpec([8192, 4], tf.float32)
    operations = tf.function(diagnostics).get_concrete_function(large, large).graph.get_operations()
    shapes = [output.shape for operation in operations for output in operation.outputs]
    assert [1024, 1024] in shapes and [8192, 4] in shapes
    assert max(math.prod(shape) for shape in shapes if shape.is_fully_defined()) <= 1024**2


# Of label distributions


def test_label_leak_by_hand():
    distributions = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]]
    leak = label_leak(distributions, [[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert leak.numpy() == pytest.approx((0.2 + 0.9) / 2, rel=1e-6)
    assert label_leak(distributions, np.zeros((3, 3))).numpy() == 0.0


def test_entropy_by_hand():
    expected = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1))
    assert distribution_entropy(np.array([[0.7, 0.2, 0.1]])).numpy() == pytest.approx(expected, rel=1e-12)
    rows = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert distribution_entropy(rows).numpy() == pytest.approx(np.log(2) / 2, rel=1e-12)
    assert distribution_entropy(np.full((2, 5), 0.2)).numpy() == pytest.approx(np.log(5), rel=1e-12)


def test_distributions_of_another_number_of_labels_are_refused():
    with pytest.raises(InputError, match="must agree on C"):
        label_leak(np.ones((3, 2)), np.ones((3, 4)))


def test_parts_of_a_batch_add_up_to_its_means():
    rng = np.random.default_rng(3)
    distributions = rng.dirichlet(np.ones(4), 7)
    labels = (rng.random((7, 4)) < 0.4).astype(float)
    labels[[1, 5]] = 0  # of which the leak is not counted
    whole = count(labels)
    parts = [diagnostics_of_distributions(distributions[rows], labels[rows], whole) for rows in (slice(3), slice(3, 7))]
    expected = {"leak": label_leak(distributions, labels), "distribution_entropy": distribution_entropy(distributions)}
    for name, mean in expected.items():
        assert float(sum(part[name] for part in parts)) == pytest.approx(float(mean), rel=1e-6), name
