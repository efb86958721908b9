import numpy as np
import pytest

from mulsupcon_tf.evaluation import nearest


def by_a_loop(vectors, row):
    """Numbers of all other rows, the nearest first."""
    unit = [vector / np.linalg.norm(vector) for vector in vectors.astype(float)]
    return sorted((p for p in range(len(unit)) if p != row), key=lambda p: -float(unit[row] @ unit[p]))


@pytest.mark.parametrize("rows", [[3, 699, 0], list(range(700))])  # the latter are more than are compared at once
@pytest.mark.parametrize("count", [1, 7, 699])
def test_the_nearest_rows_are_those_of_a_loop(rows, count):
    vectors = np.random.default_rng(0).normal(size=(700, 5)).astype(np.float32)
    found = nearest.nearest_rows(vectors, np.array(rows), count)
    assert found.shape == (len(rows), count)
    for row in (3, 699, 0):
        assert found[rows.index(row)].tolist() == by_a_loop(vectors, row)[:count]


@pytest.mark.parametrize("count", [1, 10, 199, 200])
def test_of_equal_values_the_first_are_taken(count):
    values = np.random.default_rng(0).integers(0, 4, (50, 200)).astype(np.float32)
    values[:, ::7] = -np.inf
    expected = np.argsort(-values, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(nearest.largest_of_rows(values, count), expected)


def test_equal_rows_come_in_their_order_and_a_row_of_zeros_is_near_to_none():
    vectors = np.array([[1.0, 0], [0, 0], [2, 0], [-1, 0], [3, 0]])
    assert nearest.nearest_rows(vectors, np.array([4]), 4).tolist() == [[0, 2, 1, 3]]
    assert nearest.unit_rows(vectors)[1].tolist() == [0, 0]
