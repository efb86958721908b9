"""How far recovered label distributions are from the true ones, and the controls that a recovery has to beat.

`truth` and `recovered` are `[N, C]` label distributions: no negative entry, rows sum to 1 (within 1e-3). A sample whose
row of `truth` is all zeros has no label; it is left out of every mean. Each measure is a mean over samples of the
measure of one sample, in float64. With `relevant` (the labels `[N, C]`, 0 or 1) the two rows are first restricted to
the sample's own labels and scaled back to sum 1, which leaves out how much mass leaked to other labels; a recovered row
without any mass there says nothing about them and counts as uniform over them.

Every function raises `InputError` for tables that do not fit each other or are no distributions, and when no sample has
a label.

References:
    Geng, Label Distribution Learning, TKDE 2016: the six measures. Smaller is better for KL, Chebyshev, Clark and
    Canberra; larger is better for cosine and intersection, and for pair concordance.
"""

import math
from typing import Any

import numpy as np

from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.evaluation.metrics import check_binary
from mulsupcon_tf.utils.errors import InputError

SMOOTHED_OVER = 10  # neighbours
KL_FLOOR = 1e-7
_SUM_TOLERANCE = 1e-3
_SMOOTHING_ROWS = 512


def _check_distributions(name: str, rows: np.ndarray) -> None:
    if not (np.isfinite(rows) & (rows >= 0)).all():
        raise InputError(f"{name} must hold finite numbers that are not negative. Received: minimum {rows.min()}")
    off = np.abs(rows.sum(axis=1) - 1).max(initial=0.0)
    if off > _SUM_TOLERANCE:
        raise InputError(f"rows of {name} must sum to 1. Received: a row whose sum is off by {off:.3g}")


def _labelled_rows(truth: Any, recovered: Any, relevant: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Checks the tables and returns those rows of each whose sample has a label; `relevant` as bool, None as all True."""
    truth, recovered = np.asarray(truth, np.float64), np.asarray(recovered, np.float64)
    if truth.ndim != 2 or truth.shape != recovered.shape:
        raise InputError(
            "truth and recovered must be tables [samples, labels] of one shape. "
            f"Received: truth {truth.shape}, recovered {recovered.shape}"
        )
    mask = np.ones(truth.shape, bool) if relevant is None else check_binary("labels", relevant)
    if mask.shape != truth.shape:
        raise InputError(f"labels must have the shape of truth. Received: labels {mask.shape}, truth {truth.shape}")
    labelled = truth.any(axis=1)
    if not labelled.any():
        raise InputError(
            f"truth must hold a sample with a label. Received: {len(truth)} samples, none of them with one"
        )
    truth, recovered, mask = truth[labelled], recovered[labelled], mask[labelled]
    _check_distributions("truth", truth)
    _check_distributions("recovered", recovered)
    if not (truth * mask).any(axis=1).all():
        raise InputError("truth must have mass on the labels of its sample. Received: a row with none")
    return truth, recovered, mask


def _compared_rows(truth: Any, recovered: Any, relevant: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the labelled samples, restricted to the relevant labels and scaled to sum exactly 1."""
    truth, recovered, mask = _labelled_rows(truth, recovered, relevant)
    silent = ~(recovered * mask).any(axis=1, keepdims=True)
    truth, recovered = truth * mask, np.where(silent, 1.0, recovered) * mask
    return truth / truth.sum(axis=1, keepdims=True), recovered / recovered.sum(axis=1, keepdims=True)


def _relative_differences(truth: np.ndarray, recovered: np.ndarray) -> np.ndarray:
    """|t − r| / (t + r), 0 where both are 0."""
    total = truth + recovered
    return np.divide(np.abs(truth - recovered), total, out=np.zeros_like(total), where=total > 0)


def kl_divergence(truth: np.ndarray, recovered: np.ndarray, relevant: np.ndarray | None = None) -> float:
    """KL(truth ‖ recovered) = Σ_j t_j log( max(t_j, ε) / max(r_j, ε) ) in nats, ε = 1e-7.

    The floor keeps a label that recovery gave no mass at a finite price, at most t_j · 16.1; 0 log 0 is 0.
    """
    t, r = _compared_rows(truth, recovered, relevant)
    return float(np.sum(t * np.log(np.maximum(t, KL_FLOOR) / np.maximum(r, KL_FLOOR)), axis=1).mean())


def chebyshev_distance(truth: np.ndarray, recovered: np.ndarray, relevant: np.ndarray | None = None) -> float:
    """max_j |t_j − r_j|, between 0 and 1."""
    t, r = _compared_rows(truth, recovered, relevant)
    return float(np.abs(t - r).max(axis=1).mean())


def clark_distance(truth: np.ndarray, recovered: np.ndarray, relevant: np.ndarray | None = None) -> float:
    """√( Σ_j (t_j − r_j)² / (t_j + r_j)² ), 0 / 0 = 0, between 0 and √C.

    A label without true mass adds 1 under the root for any recovered mass however small; restrict to the relevant
    labels to compare methods that leak.
    """
    return float(np.sqrt((_relative_differences(*_compared_rows(truth, recovered, relevant)) ** 2).sum(axis=1)).mean())


def canberra_distance(truth: np.ndarray, recovered: np.ndarray, relevant: np.ndarray | None = None) -> float:
    """Σ_j |t_j − r_j| / (t_j + r_j), 0 / 0 = 0, between 0 and C. Leaked mass counts as in `clark_distance`."""
    return float(_relative_differences(*_compared_rows(truth, recovered, relevant)).sum(axis=1).mean())


def cosine_similarity(truth: np.ndarray, recovered: np.ndarray, relevant: np.ndarray | None = None) -> float:
    """Σ_j t_j r_j / (‖t‖ ‖r‖), between 0 and 1."""
    t, r = _compared_rows(truth, recovered, relevant)
    return float(((t * r).sum(axis=1) / (np.linalg.norm(t, axis=1) * np.linalg.norm(r, axis=1))).mean())


def intersection_similarity(truth: np.ndarray, recovered: np.ndarray, relevant: np.ndarray | None = None) -> float:
    """Σ_j min(t_j, r_j), between 0 and 1."""
    t, r = _compared_rows(truth, recovered, relevant)
    return float(np.minimum(t, r).sum(axis=1).mean())


def pair_concordance(truth: np.ndarray, recovered: np.ndarray, labels: np.ndarray) -> float:
    """Share of label pairs whose order was recovered; 0.5 is what a guess gets.

    Counts all pairs of relevant labels of one sample whose true masses differ, pooled over the samples. A pair whose
    recovered masses are equal counts one half.

    Args:
        truth: `[N, C]` distributions.
        recovered: `[N, C]` distributions.
        labels: `[N, C]`, 0 or 1: the relevant labels.

    Returns:
        Between 0 and 1, NaN when there is no such pair.
    """
    truth, recovered, mask = _labelled_rows(truth, recovered, labels)
    sizes = mask.sum(axis=1)
    right = pairs = 0.0
    # Samples with equally many labels form one dense [samples, m] table: C² values a sample would not fit for large C.
    for size in np.unique(sizes):
        rows = sizes == size
        t, r = (table[rows][mask[rows]].reshape(-1, size) for table in (truth, recovered))
        first, second = np.triu_indices(size, k=1)
        true_order, order = np.sign(t[:, first] - t[:, second]), np.sign(r[:, first] - r[:, second])
        pairs += np.count_nonzero(true_order)
        right += np.sum((1 + true_order * order)[true_order != 0]) / 2
    return float(right / pairs) if pairs else float("nan")


_MEASURES = {
    "kl": kl_divergence,
    "chebyshev": chebyshev_distance,
    "clark": clark_distance,
    "canberra": canberra_distance,
    "cosine": cosine_similarity,
    "intersection": intersection_similarity,
}


def compare_distributions(truth: np.ndarray, recovered: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All measures at once.

    Args:
        truth: `[N, C]` distributions, a row of zeros for a sample without labels.
        recovered: `[N, C]` distributions.
        labels: `[N, C]`, 0 or 1.

    Returns:
        "kl", "chebyshev", "clark", "canberra", "cosine" and "intersection" over all labels, each again with the suffix
        "_relevant" for the relevant labels alone, and "pair_concordance".
    """
    result = {name: measure(truth, recovered) for name, measure in _MEASURES.items()}
    result |= {f"{name}_relevant": measure(truth, recovered, labels) for name, measure in _MEASURES.items()}
    result["pair_concordance"] = pair_concordance(truth, recovered, labels)
    return result


def uniform_label_distribution(labels: np.ndarray) -> np.ndarray:
    """The same mass for every label of a sample, y / |y|: the control that knows nothing but the labels.

    Args:
        labels: `[N, C]`, 0 or 1.

    Returns:
        `[N, C]` float64, a row of zeros for a sample without labels.
    """
    binary = check_binary("labels", labels)
    return binary / np.maximum(binary.sum(axis=1, keepdims=True), 1)


def smoothed_label_distribution(
    labels: np.ndarray, features: np.ndarray, neighbours: int = SMOOTHED_OVER
) -> np.ndarray:
    """Labels smoothed over neighbours in feature space: the control that needs no training.

    With N(i) the `neighbours` other samples that are nearest to i in Euclidean distance,
    s_i = ( y_i/|y_i| + Σ_{p∈N(i)} y_p/|y_p| ) / (neighbours + 1),  d_i = s_i ⊙ y_i / Σ_j (s_i ⊙ y_i):
    a label counts more the more of the neighbours have it and the fewer others they have beside it. The sample's own
    share keeps each of its labels above 0. Neighbours without labels add nothing. Features are taken as they are:
    standardise them first where their scales differ. Which of several equally distant samples count is not specified.

    Args:
        labels: `[N, C]`, 0 or 1.
        features: `[N, F]` finite.
        neighbours: from 1 to N − 1.

    Returns:
        `[N, C]` float64, zero off the labels, rows sum to 1; a row of zeros for a sample without labels.

    Raises:
        InputError: if the tables do not fit each other, a feature is not finite, or there are too few samples.
    """
    uniform = uniform_label_distribution(labels)
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) != len(uniform):
        raise InputError(
            f"features must be a table [samples, features] with a row per sample of labels, {len(uniform)}. "
            f"Received: shape {features.shape}"
        )
    if not np.isfinite(features).all():
        raise InputError("features must be finite. Received: a NaN or an infinity")
    if not 1 <= neighbours < len(features):
        raise InputError(
            f"neighbours must be between 1 and the number of other samples, {len(features) - 1}. Received: {neighbours}"
        )
    features = features - features.mean(axis=0)  # a large common offset would cancel in the distances below
    squares = (features**2).sum(axis=1)
    smoothed = uniform.copy()
    for start in range(0, len(features), _SMOOTHING_ROWS):
        chunk = slice(start, start + _SMOOTHING_ROWS)
        # ‖x_i‖² is the same for the whole row, so the order of the distances does not need it.
        distances = squares - 2 * features[chunk] @ features.T
        own = np.arange(len(distances))
        distances[own, start + own] = np.inf
        nearest = np.argpartition(distances, neighbours - 1, axis=1)[:, :neighbours]
        smoothed[chunk] += uniform[nearest].sum(axis=1)
    smoothed *= uniform > 0
    mass = smoothed.sum(axis=1, keepdims=True)
    return smoothed / np.where(mass > 0, mass, 1)


def judge_recovery(dataset: MultiLabelDataset, recovered: np.ndarray, features: np.ndarray) -> dict[str, Any]:
    """Distances to the truth on the test split.

    Args:
        dataset: one whose test split has true distributions.
        recovered: `[N, C]` d of the test samples.
        features: `[N, R]` their representations, for the smoothed control.

    Returns:
        A dict of `compare_distributions` results: "recovered" (d), and the controls "uniform" (y/|y|) and "smoothed"
        (y/|y| averaged over near samples); None for a measure that is not defined on these data.
    """
    test = dataset.splits["test"]
    labels = test.labels.astype(np.float64)
    uniform = uniform_label_distribution(labels)
    neighbours = min(SMOOTHED_OVER, len(labels) - 1)
    candidates = {
        "recovered": recovered,
        "uniform": uniform,
        "smoothed": smoothed_label_distribution(labels, features, neighbours) if neighbours else uniform,
    }
    assert test.distributions is not None
    judged = {
        name: compare_distributions(test.distributions, candidate, labels) for name, candidate in candidates.items()
    }
    return {
        name: {measure: None if math.isnan(value) else value for measure, value in measures.items()}
        for name, measures in judged.items()
    }
