"""Searches among the samples of a report, in NumPy: it is written without waiting for TensorFlow."""

import numpy as np

_CHUNK = 512  # rows whose similarities to all are in memory at once


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows of norm 1, float64; a row of zeros stays one."""
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


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
        near = np.sort(np.argpartition(-similarities, count - 1, axis=1)[:, :count], axis=1)
        order = np.argsort(-np.take_along_axis(similarities, near, axis=1), axis=1, kind="stable")
        found[start : start + _CHUNK] = np.take_along_axis(near, order, axis=1)
    return found
