"""Multi-label metrics on whole splits, in NumPy float64.

`labels` is `[N, C]`: 0, 1, or NaN where it is unknown whether a sample has a label. What is unknown is left out of every
metric, as if the sample had not been asked about it. `probabilities` is `[N, C]`; where only the order counts (average
precision, precision@1) any finite scores do. `predictions` is `[N, C]`, 0 or 1. Every function raises `InputError` when the
two do not have one shape with at least one row and one column, when a value that must be 0 or 1 is not, or when a score is
not finite.
"""

from typing import Any

import numpy as np

from mulsupcon_tf.utils.errors import InputError

FREQUENCY_GROUPS = ("head", "medium", "tail")


def known_of(labels: Any) -> np.ndarray:
    """Which labels are known, `[N, C]` bool: those that are not NaN."""
    labels = np.asarray(labels)
    return ~np.isnan(labels) if labels.dtype.kind == "f" else np.ones(labels.shape, bool)


def check_binary(name: str, values: Any, *, partial: bool = False) -> np.ndarray:
    """Converts to `[N, C]` bool, after a check that the table is two-dimensional, not empty, and holds only 0 and 1.

    Args:
        name: what the values are called in the error message.
        values: `[N, C]`, any numeric dtype or bool.
        partial: whether NaN is allowed, which becomes False.

    Raises:
        InputError: if the shape or a value is wrong.
    """
    values = np.asarray(values)
    if values.ndim != 2 or values.size == 0:
        raise InputError(f"{name} must be a table [samples, labels] that is not empty. Received: shape {values.shape}")
    if values.dtype == bool:
        return values
    binary = values == 1
    wrong = ~(binary | (values == 0))
    if partial:
        wrong &= known_of(values)
    if wrong.any():
        raise InputError(f"{name} must be 0 or 1. Received: {name} with the value {values[wrong][0]}")
    return binary


def _check_same_shape(labels: np.ndarray, name: str, values: np.ndarray) -> None:
    if values.shape != labels.shape:
        raise InputError(
            f"{name} must have the shape of labels. Received: {name} {values.shape}, labels {labels.shape}"
        )


def check_scores(labels: Any, probabilities: Any) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool, False where unknown, and scores as float64, both `[N, C]`.

    Raises:
        InputError: if the shapes differ, a label is not 0 or 1, or a score is NaN or infinite.
    """
    labels = check_binary("labels", labels, partial=True)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    _check_same_shape(labels, "probabilities", probabilities)
    finite = np.isfinite(probabilities)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"probabilities must be finite. Received: {probabilities[row, column]} for sample {row}, label {column}"
            f" ({np.count_nonzero(~finite)} such values)"
        )
    return labels, probabilities


def _check_predictions(labels: Any, predictions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and predictions, both False where the label is unknown, and which are known."""
    known = known_of(labels)
    labels = check_binary("labels", labels, partial=True)
    predictions = check_binary("predictions", predictions)
    _check_same_shape(labels, "predictions", predictions)
    return labels, predictions & known, known


def _mean_of_known(values: np.ndarray, known: np.ndarray) -> float:
    """Mean over the samples of which a label is known; 0 without any."""
    counted = known.any(axis=1)
    return float(values[counted].mean()) if counted.any() else 0.0


def ratio(numerator: np.ndarray, denominator: np.ndarray, *, empty: float) -> np.ndarray:
    """Element-wise quotient, `empty` where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(denominator), empty), where=denominator > 0)


def average_precisions(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Average precision of each label, as `sklearn.metrics.average_precision_score` defines it.

    AP_j = mean over the positives i of label j of  #{positives with score ≥ s_ij} / #{samples with score ≥ s_ij}.
    Samples with equal scores enter the ranking together, so their order does not matter.

    Returns:
        `[C]` float64, NaN for a label without a positive.
    """
    known = known_of(labels)
    labels, probabilities = check_scores(labels, probabilities)
    result = np.full(labels.shape[1], np.nan)
    for label in np.flatnonzero(labels.any(axis=0)):
        ranked = np.sort(probabilities[known[:, label], label])
        positives = np.sort(probabilities[labels[:, label], label])
        samples_above = len(ranked) - np.searchsorted(ranked, positives, side="left")
        positives_above = len(positives) - np.searchsorted(positives, positives, side="left")
        result[label] = np.mean(positives_above / samples_above)
    return result


def mean_average_precision(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """MAP: mean of `average_precisions` over the labels that have a positive.

    How many labels that leaves out: `len(labels_without_positives(labels))`.

    Args:
        labels: `[N, C]`: 0, 1, or NaN where unknown.
        probabilities: `[N, C]`, or other finite scores.

    Returns:
        A number in [0, 1].

    Raises:
        InputError: a rule of this module is broken, or no label has a positive, since then nothing can be ranked.
    """
    precisions = average_precisions(labels, probabilities)
    if np.isnan(precisions).all():
        raise InputError(
            f"mAP needs a label with a positive sample. Received: {len(labels)} samples, none of which has a label"
        )
    return float(np.nanmean(precisions))


def labels_without_positives(labels: np.ndarray) -> list[int]:
    """Columns of the labels that no sample has: average precision is not defined for them."""
    return np.flatnonzero(~check_binary("labels", labels, partial=True).any(axis=0)).tolist()


def grouped_average_precision(
    labels: np.ndarray, probabilities: np.ndarray, train_frequencies: np.ndarray
) -> dict[str, float]:
    """Mean average precision over the frequent, the medium and the rare labels.

    The labels are sorted by training frequency (of equally frequent ones the lower column comes first) and cut into
    three parts whose sizes differ by at most one, the larger parts first.

    Args:
        labels: `[N, C]`.
        probabilities: `[N, C]`.
        train_frequencies: `[C]`, how often each label occurs in the training split, as counts or shares.

    Returns:
        "head", "medium" and "tail", each a mean over the group's labels that have a positive in `labels`; NaN for a
        group that has none.

    Raises:
        InputError: also if `train_frequencies` does not hold C finite numbers ≥ 0.
    """
    precisions = average_precisions(labels, probabilities)
    frequencies = np.asarray(train_frequencies, dtype=np.float64)
    if frequencies.shape != precisions.shape:
        raise InputError(
            f"train_frequencies must hold one number per label, {len(precisions)}. Received: shape {frequencies.shape}"
        )
    if not (np.isfinite(frequencies) & (frequencies >= 0)).all():
        raise InputError(f"train_frequencies must be finite and not negative. Received: {frequencies.min()} as minimum")
    groups = np.array_split(np.argsort(-frequencies, kind="stable"), len(FREQUENCY_GROUPS))
    means = {}
    for name, members in zip(FREQUENCY_GROUPS, groups, strict=True):
        known = precisions[members][~np.isnan(precisions[members])]
        means[name] = float(known.mean()) if known.size else float("nan")
    return means


def precision_at_1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Share of samples whose highest-scored label is one of theirs.

    A sample without labels counts as wrong, whatever is predicted for it; one of which no label is known is left out. When
    several labels share the highest score, the sample counts by the share of them that are right: the expectation of
    breaking the tie at random, which does not depend on the order of the columns.
    """
    return _mean_of_known(top_label_is_right(labels, probabilities), known_of(labels))


def top_label_is_right(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """What each sample adds to `precision_at_1`, `[N]`: 1 or 0, or a share where several labels have the highest score."""
    known = known_of(labels)
    labels, probabilities = check_scores(labels, probabilities)
    probabilities = np.where(known, probabilities, -np.inf)
    top = probabilities == probabilities.max(axis=1, keepdims=True)
    return (top & labels).sum(axis=1) / top.sum(axis=1)


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean over all labels of F1 = 2 TP / (2 TP + FP + FN); a label that is neither present nor predicted scores 0."""
    labels, predictions, _ = _check_predictions(labels, predictions)
    hits = (labels & predictions).sum(axis=0)
    return float(ratio(2 * hits, labels.sum(axis=0) + predictions.sum(axis=0), empty=0.0).mean())


def micro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of all N·C decisions pooled; 0 when nothing is present and nothing is predicted."""
    labels, predictions, _ = _check_predictions(labels, predictions)
    hits = (labels & predictions).sum()
    return float(ratio(2 * hits, labels.sum() + predictions.sum(), empty=0.0))


def hamming_accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of the N·C decisions, of those on known labels, that are right: 1 − Hamming loss."""
    labels, predictions, known = _check_predictions(labels, predictions)
    return float(((labels == predictions) & known).sum() / max(known.sum(), 1))


def example_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean over the samples of F1 = 2 |y ∩ ŷ| / (|y| + |ŷ|).

    An empty prediction for a sample without labels scores 1; a sample of which no label is known is left out.
    """
    labels, predictions, known = _check_predictions(labels, predictions)
    hits = (labels & predictions).sum(axis=1)
    return _mean_of_known(ratio(2 * hits, labels.sum(axis=1) + predictions.sum(axis=1), empty=1.0), known)


def class_and_overall_f1(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 per class and overall, as papers on MS-COCO report them.

    With TP_j, P_j predicted and R_j relevant samples of label j:
    CP = mean_j TP_j / P_j,  CR = mean_j TP_j / R_j,  CF1 = 2 CP·CR / (CP + CR): the F1 *of the means*, which differs
    from the mean of the F1s that `macro_f1` gives;  OP = Σ TP_j / Σ P_j,  OR = Σ TP_j / Σ R_j,
    OF1 = 2 OP·OR / (OP + OR), which equals `micro_f1`. The means run over all C labels; 0 / 0 counts as 0.

    Returns:
        "CP", "CR", "CF1", "OP", "OR" and "OF1".
    """
    labels, predictions, _ = _check_predictions(labels, predictions)
    hits, predicted, relevant = (counts.sum(axis=0) for counts in (labels & predictions, predictions, labels))
    scores = {}
    for kind, precision, recall in (
        ("C", ratio(hits, predicted, empty=0.0).mean(), ratio(hits, relevant, empty=0.0).mean()),
        ("O", ratio(hits.sum(), predicted.sum(), empty=0.0), ratio(hits.sum(), relevant.sum(), empty=0.0)),
    ):
        scores[f"{kind}P"] = float(precision)
        scores[f"{kind}R"] = float(recall)
        scores[f"{kind}F1"] = float(ratio(2 * precision * recall, precision + recall, empty=0.0))
    return scores
