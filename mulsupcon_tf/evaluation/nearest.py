"""Searches by cosine in NumPy: a report is written, and an index asked, without TensorFlow."""

import numpy as np
import numpy.typing as npt

_CHUNK = 512  # rows whose similarities to all are in memory at once


def unit_rows(vectors: np.ndarray, dtype: npt.DTypeLike = np.float64) -> np.ndarray:
    """Rows of norm 1, of the given dtype; a row of zeros stays one."""
    vectors = np.ascontiguousarray(vectors, dtype)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def largest_of_rows(values: np.ndarray, count: int) -> np.ndarray:
    """Columns of the largest values of each row, `[M, count]`, the largest first, of equal ones the first.

    Args:
        values: `[M, N]`, no NaN.
        count: from 1 to N.
    """
    least = -np.partition(-values, count - 1, axis=1)[:, count - 1 : count]
    chosen = values >= least
    surplus = chosen.sum(axis=1) - count
    for row in np.flatnonzero(surplus):  # of those that are level with the last one the first
        chosen[row, np.flatnonzero(values[row] == least[row])[-surplus[row] :]] = False
    columns = np.nonzero(chosen)[1].reshape(len(values), count)
    order = np.argsort(-np.take_along_axis(values, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def nearest_rows(vectors: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """The nearest other rows by cosine, `[M, count]`, the nearest first.

    Args:
        vectors: `[N, D]`.
        rows: `[M]` of those that ask.
        count: below N.
    """
    unit = unit_rows(vectors)
    found = np.empty((len(rows), count), np.int64)
    for start in range(0, len(rows), _CHUNK):
        asking = rows[start : start + _CHUNK]
        similarities = unit[asking] @ unit.T
        similarities[np.arange(len(asking)), asking] = -np.inf
        found[start : start + _CHUNK] = largest_of_rows(similarities, count)
    return found
