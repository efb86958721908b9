"""Decision thresholds: how `--threshold` is read, and how one is chosen for each metric."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mulsupcon_tf.evaluation import metrics
from mulsupcon_tf.utils.errors import InputError

THRESHOLDED_METRICS = {
    "macro_f1": metrics.macro_f1,
    "micro_f1": metrics.micro_f1,
    "hamming_accuracy": metrics.hamming_accuracy,
    "example_f1": metrics.example_f1,
}
THRESHOLD_GRID = tuple(step / 20 for step in range(1, 20))
PAPER_THRESHOLD_GRID = tuple(step / 10 for step in range(1, 10))
Thresholds = Mapping[str, float] | Mapping[str, Sequence[float]]  # by metric, common or [C]
Labelled = tuple[np.ndarray, np.ndarray]  # labels and probabilities, both [N, C]


def check_probabilities(labels: Any, probabilities: Any) -> Labelled:
    """Labels as bool, False where unknown, and probabilities as arrays `[N, C]` that fit each other.

    Raises:
        InputError: they do not, or a probability is not in [0, 1].
    """
    labels, probabilities = metrics.check_scores(labels, probabilities)
    lowest, highest = probabilities.min(), probabilities.max()
    if lowest < 0 or highest > 1:
        raise InputError(f"probabilities must lie in [0, 1]. Received: values from {lowest:g} to {highest:g}")
    return labels, probabilities


def parse_threshold(text: str) -> float | Literal["validation", "per_label", "paper"]:
    """Reads the value of `--threshold`.

    Args:
        text: "validation": one threshold per metric, chosen on the validation split. "per_label": one per metric and label,
            chosen there too. A number such as "0.5": that threshold for every metric. "paper": one threshold per metric,
            chosen on the test split.

    Raises:
        InputError: for anything else, and for a number that is not between 0 and 1.
    """
    if text in ("validation", "per_label", "paper"):
        return text  # type: ignore[return-value]
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not 0 < number < 1:
        raise InputError(
            f"threshold must be validation, per_label, paper, or a number between 0 and 1. Received: {text!r}"
        )
    return number


def above(probabilities: np.ndarray, threshold: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Which labels are given, bool of the probabilities' shape: those whose probability is above the threshold in float32.

    In float64 the float32 number nearest to 0.55, say, is above 0.55: a model's user, who has float32 only, would decide
    otherwise. One threshold a label is broadcast over the samples.
    """
    return np.asarray(probabilities, np.float32) > np.asarray(threshold, np.float32)


def as_float32(thresholds: Thresholds) -> dict[str, float | list[float]]:
    """The numbers that float32 holds for the thresholds, by which whoever compares in float64 decides as `above` does."""
    return {name: np.asarray(value, np.float32).tolist() for name, value in thresholds.items()}


def threshold_text(threshold: float | Sequence[float]) -> str:
    """A threshold as a cell of a table."""
    return f"{threshold:g}" if isinstance(threshold, float) else "per label"


def choose_thresholds(
    labels: np.ndarray, probabilities: np.ndarray, grid: Sequence[float] = THRESHOLD_GRID
) -> dict[str, float]:
    """Finds the best threshold of each thresholded metric.

    Args:
        labels: `[N, C]`, 0, 1, or NaN where unknown, of the split that may be used for choosing: validation.
        probabilities: `[N, C]` in [0, 1].
        grid: the candidates. Every one is tried on every metric. Among those that score the same (to 12 decimals) the
            nearest to 0.5 wins, and of two equally near ones the lower.

    Returns:
        Maps "macro_f1", "micro_f1", "hamming_accuracy" and "example_f1" to a threshold.

    Raises:
        InputError: if the tables do not fit each other, or a probability or a candidate is not in [0, 1], or there is none.
    """
    by_preference = sorted(grid, key=lambda threshold: (round(abs(threshold - 0.5), 12), threshold))
    if not by_preference or not all(0 <= threshold <= 1 for threshold in by_preference):
        raise InputError(f"grid must hold thresholds from 0 to 1. Received: {', '.join(map(str, grid)) or 'none'}")
    _, probabilities = check_probabilities(labels, probabilities)
    scores: dict[str, list[float]] = {name: [] for name in THRESHOLDED_METRICS}
    for threshold in by_preference:
        predictions = above(probabilities, threshold)
        for name, metric in THRESHOLDED_METRICS.items():
            scores[name].append(round(metric(labels, predictions), 12))
    return {name: float(by_preference[int(np.argmax(values))]) for name, values in scores.items()}
