"""How much the nearest training samples should say beside a classifier: chosen on validation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from mulsupcon_tf.evaluation.metrics import mean_average_precision
from mulsupcon_tf.evaluation.neighbours import nearest_rows
from mulsupcon_tf.utils.tensors import labels_of_neighbours, within_floor

NUM_NEIGHBOURS = (20, 50, 100, 200)
TEMPERATURES = (0.03, 0.05, 0.1, 0.2)
SHARES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


class Mixture(NamedTuple):
    """(1 − s) times the classifier's probabilities plus s times the labels of the k nearest samples.

    Attributes:
        num_neighbours: k.
        temperature: τ of the softmax over their cosines.
        share: s; 0 where no neighbours do better.
        floor: ε, the least that the neighbours say; see `mixture_floor`.
    """

    num_neighbours: int
    temperature: float
    share: float
    floor: float = 0.0


def mixture_floor(gallery_size: int) -> float:
    """ε = 1 / (2 (M + 1)), the least that M samples can say of a label's probability; `NeighbourClassifier` says why."""
    return 0.5 / (gallery_size + 1)


def choose_mixture(
    labels: np.ndarray,
    probabilities: np.ndarray,
    spaces: Sequence[tuple[np.ndarray, np.ndarray]],
    bank_labels: np.ndarray,
) -> Mixture:
    """The mixture of the best mean average precision; of equally good ones the first, with the fewest neighbours.

    Args:
        labels: `[N, C]` of validation, 0 or 1.
        probabilities: `[N, C]`, the classifier's.
        spaces: `[N, D]` rows of validation and `[M, D]` rows of the bank for each space in which neighbours are looked
            for; what they say is averaged.
        bank_labels: `[M, C]`, 0 or 1.

    Returns:
        k from `NUM_NEIGHBOURS`, at most M, τ from `TEMPERATURES` and s from `SHARES`, or 0.
    """
    most = min(max(NUM_NEIGHBOURS), len(bank_labels))
    found = [list(nearest_rows(rows, bank, most)) for rows, bank in spaces]
    known, floor = ops.convert_to_tensor(bank_labels, "float32"), mixture_floor(len(bank_labels))
    best, best_score = Mixture(1, 1.0, 0.0), mean_average_precision(labels, probabilities)
    for count in sorted({min(count, most) for count in NUM_NEIGHBOURS}):
        for temperature in TEMPERATURES:
            shares = sum(_labels_nearby(blocks, known, count, temperature) for blocks in found) / len(found)
            near = within_floor(shares, floor)
            for share in SHARES:
                score = mean_average_precision(labels, (1 - share) * probabilities + share * near)
                if score > best_score:
                    best, best_score = Mixture(count, temperature, share, floor), score
    return best


def _labels_nearby(blocks: Sequence[tuple[slice, Any, Any]], labels: Any, count: int, temperature: float) -> np.ndarray:
    """`[N, C]`: what the nearest `count` of `nearest_rows` say; the labels of all N's neighbours would be `[N, k, C]`."""
    near = [
        labels_of_neighbours(cosines[:, :count], rows[:, :count], labels, temperature) for _, cosines, rows in blocks
    ]
    return np.concatenate([ops.convert_to_numpy(block) for block in near])
