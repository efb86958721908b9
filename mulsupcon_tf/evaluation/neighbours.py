"""Judges a representation without training anything: labels are predicted from the nearest training samples.

Source: Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, CVPR 2018, arXiv 1805.01978,
section 3.4 (weighted kNN); there a sample has one class, here every label is scored on its own.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops

from mulsupcon_tf.evaluation.metrics import mean_average_precision
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import labels_of_neighbours, require_positive, unit_rows

VOTERS = 20  # neighbours that score a label
TEMPERATURE = 0.07
MAX_BANK = 20_000
_CHUNK = 256  # rows whose similarities to the whole bank are in memory at once: 20 MB for a full bank


def bank_rows(num_samples: int) -> np.ndarray:
    """Rows of the training samples that serve as neighbours: all, or a fixed draw of 20,000 in the order of the split.

    Args:
        num_samples: N.

    Returns:
        `[min(N, 20000)]` int64; the same for every run on the same data, so that curves can be compared.
    """
    return np.sort(np.random.default_rng(0).permutation(num_samples)[:MAX_BANK])


def nearest_rows(features: np.ndarray, bank: np.ndarray, num_neighbours: int) -> Iterator[tuple[slice, Any, Any]]:
    """Finds the k rows p of the bank with the largest cos(r_i, r_p), for some hundred samples i at a time.

    Never more than those samples' similarities to the bank are in memory: 100 MB for a bank of 100,000.

    Args:
        features: `[N, R]`.
        bank: `[M, R]`.
        num_neighbours: k; the whole bank where it is smaller.

    Yields:
        A slice of the N samples, and for each of them the similarities and the rows of the bank, `[n, k]` tensors, the
        nearest first; of equally similar rows the first in the bank is the nearer one.

    Raises:
        InputError: k is not above 0.
    """
    require_positive(num_neighbours=num_neighbours)
    count = min(num_neighbours, len(bank))
    columns = ops.transpose(unit_rows(ops.convert_to_tensor(bank, "float32")))
    for start in range(0, len(features), _CHUNK):
        rows = slice(start, min(start + _CHUNK, len(features)))
        near = ops.top_k(ops.matmul(unit_rows(ops.convert_to_tensor(features[rows], "float32")), columns), count)
        yield rows, *near


def neighbour_scores(
    features: np.ndarray,
    bank: np.ndarray,
    bank_labels: np.ndarray,
    *,
    num_neighbours: int = VOTERS,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Scores each label by the weighted share of a sample's nearest neighbours that carry it.

    s_ij = Σ_p a_ip y_pj over the k rows p of the bank that are most similar to sample i, a_i = softmax_p(cos(r_i, r_p) / τ).
    Of equally similar rows the first in the bank are the nearer ones. Neighbours without labels take their share and
    give it to no label.

    Args:
        features: `[N, R]`.
        bank: `[M, R]`.
        bank_labels: `[M, C]`, 0 or 1.
        num_neighbours: k; the whole bank where it is smaller.
        temperature: τ > 0.

    Returns:
        `[N, C]` float32 in [0, 1].

    Raises:
        InputError: shapes disagree, the bank is empty, or k or the temperature is not above 0.
    """
    require_positive(temperature=temperature)
    if features.ndim != 2 or bank.ndim != 2 or bank_labels.ndim != 2 or features.shape[1:] != bank.shape[1:]:
        raise InputError(
            "features [N, R], bank [M, R] and bank_labels [M, C] must be tables of one R. "
            f"Received: shapes {features.shape}, {bank.shape} and {bank_labels.shape}"
        )
    if len(bank) != len(bank_labels) or not len(bank):
        raise InputError(
            f"bank and bank_labels must have one length, at least 1. Received: {len(bank)} and {len(bank_labels)}"
        )
    labels = ops.convert_to_tensor(bank_labels, "float32")
    scores = np.empty((len(features), bank_labels.shape[1]), np.float32)
    for rows, similarities, nearest in nearest_rows(features, bank, num_neighbours):
        scores[rows] = ops.convert_to_numpy(labels_of_neighbours(similarities, nearest, labels, temperature))
    return scores


def neighbour_mean_average_precision(
    features: np.ndarray, labels: np.ndarray, bank: np.ndarray, bank_labels: np.ndarray
) -> float | None:
    """Mean average precision of `neighbour_scores` at k = 20, τ = 0.07, in [0, 1].

    Args:
        features: `[N, R]` of the samples that are judged.
        labels: `[N, C]`, 0 or 1.
        bank: `[M, R]`.
        bank_labels: `[M, C]`, 0 or 1.

    Returns:
        The mean over the labels that have a positive among the N samples; None where there is no such label.
    """
    if not labels.any():
        return None
    return mean_average_precision(labels, neighbour_scores(features, bank, bank_labels))
