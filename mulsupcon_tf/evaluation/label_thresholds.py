"""One decision threshold a label, chosen where there is enough to choose by: `--threshold=per_label`."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mulsupcon_tf.evaluation.metrics import known_of, ratio
from mulsupcon_tf.evaluation.thresholds import THRESHOLD_GRID, above, check_probabilities, choose_thresholds

SHRINKAGE = 10  # positives on validation with which a label's own threshold counts as much as the common one
SWEEPS = 3
Objective = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def choose_label_thresholds(
    labels: np.ndarray, probabilities: np.ndarray, grid: Sequence[float] = THRESHOLD_GRID
) -> dict[str, list[float]]:
    """Finds thresholds of each label for each thresholded metric.

    From the common threshold t of `choose_thresholds` on, label after label gets the candidate that is best for the metric
    while the others keep theirs, in at most three sweeps over the labels. What that gives, t_j, is drawn towards t where
    few samples have the label: (n_j t_j + 10 t) / (n_j + 10), n_j the number of its positives.

    Args:
        labels: `[N, C]`, 0 or 1, of the split that may be used for choosing: validation.
        probabilities: `[N, C]` in [0, 1].
        grid: the candidates. Among equally good ones the one that a label has stays, else the nearest to t wins.

    Returns:
        Maps each thresholded metric to C thresholds.

    Raises:
        InputError: if the tables do not fit each other or a probability is not in [0, 1].
    """
    commons, known = choose_thresholds(labels, probabilities, grid), known_of(labels)
    labels, probabilities = check_probabilities(labels, probabilities)
    number = labels.sum(axis=0)
    chosen = {}
    for name, common in commons.items():
        candidates = np.array(sorted(grid, key=lambda threshold: abs(threshold - common)))
        own = candidates[_sweep(labels, probabilities, known, candidates, _OBJECTIVES[name])]
        chosen[name] = ((number * own + SHRINKAGE * common) / (number + SHRINKAGE)).tolist()
    return chosen


def _sweep(
    labels: np.ndarray, probabilities: np.ndarray, known: np.ndarray, candidates: np.ndarray, objective: Objective
) -> np.ndarray:
    """Which candidate each label ends with, `[C]`; all begin with the first."""
    best = np.zeros(labels.shape[1], np.int64)
    decided = above(probabilities, candidates[0]) & known
    asked = known.any(axis=1)
    # |y ∩ ŷ| and |y| + |ŷ| of each sample.
    hits, sizes = (labels & decided).sum(axis=1), labels.sum(axis=1) + decided.sum(axis=1)
    for _ in range(SWEEPS):
        before = best.copy()
        for label, present in enumerate(labels.T):
            tried = above(probabilities[:, label], candidates[:, None]) & known[:, label]  # [G, N]
            own = tried[best[label]]
            hits_tried, sizes_tried = hits - (own & present) + (tried & present), sizes - own + tried
            scores = objective(hits_tried[:, asked], sizes_tried[:, asked], tried, present).round(12)
            if scores.max() > scores[best[label]]:
                best[label] = np.argmax(scores)
            hits, sizes = hits_tried[best[label]], sizes_tried[best[label]]
        if (best == before).all():
            break
    return best


# Of |y ∩ ŷ| and |y| + |ŷ| [G, N] of the samples, a label's decisions [G, N] and its truth [N]: scores [G].
_OBJECTIVES: Mapping[str, Objective] = {
    "macro_f1": lambda hits, sizes, tried, present: ratio(
        2 * (tried & present).sum(axis=1), tried.sum(axis=1) + present.sum(), empty=0.0
    ),
    "micro_f1": lambda hits, sizes, tried, present: ratio(2 * hits.sum(axis=1), sizes.sum(axis=1), empty=0.0),
    "hamming_accuracy": lambda hits, sizes, tried, present: (tried == present).mean(axis=1),
    "example_f1": lambda hits, sizes, tried, present: ratio(2 * hits, sizes, empty=1.0).mean(axis=1),
}
