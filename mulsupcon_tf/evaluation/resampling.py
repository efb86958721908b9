"""How far a result could have come out otherwise: bootstrap over the samples, and predictions dealt out at random.

References:
    [1] Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13: the percentile interval, here about the result.
    [2] Good, Permutation Tests, 1994.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mulsupcon_tf.evaluation import metrics
from mulsupcon_tf.evaluation.thresholds import Thresholds, above, check_probabilities

LEVEL = 0.95
# As many as there is time for: a second or two of a core, but never fewer than the first number.
_RESAMPLES, _RESAMPLED_NUMBERS = (100, 1000), 1e8
_DRAWS, _DRAWN_NUMBERS = (20, 50), 5e6
_NORMAL = 1.96  # 95% of a normal distribution lie so many deviations around its mean


def bootstrap_intervals(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: Thresholds, *, seed: int = 0
) -> dict[str, list[float]]:
    """How far 95% of the six metrics lie from the result when samples are drawn anew, with replacement [1].

    It says how much chance there is in the choice of the samples; the model and its thresholds stay as they are. A draw holds
    some samples twice, which lifts the average precision of rare labels: all draws together may lie above the result. So their
    spread counts, around the result, and not where they lie.

    Args:
        labels: `[N, C]`, 0 or 1.
        probabilities: `[N, C]` in [0, 1].
        thresholds: for each thresholded metric one, or C.
        seed: of the draws, 100 to 1,000 by the size of the table.

    Returns:
        [lower end, upper end] by metric.

    Raises:
        InputError: the tables do not fit each other or a probability is not in [0, 1].
    """
    raw, known = labels, metrics.known_of(labels)
    labels, probabilities = check_probabilities(labels, probabilities)
    number, asked = len(labels), known.any(axis=1)
    resamples = int(np.clip(_RESAMPLED_NUMBERS / labels.size, *_RESAMPLES))
    weights = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=resamples)
    weights = np.concatenate([np.ones((1, number)), weights]).astype(
        np.float32
    )  # first all samples, once each: the result
    weights = weights[weights @ labels.any(axis=1) > 0]  # a draw without a label has no metrics

    def mean(values: np.ndarray) -> np.ndarray:
        return metrics.ratio(weights @ np.where(asked, values, 0.0), weights @ asked.astype(np.float32), empty=np.nan)

    decided = {name: above(probabilities, threshold) & known for name, threshold in thresholds.items()}
    hits, sizes = (
        {name: combine(labels, given) for name, given in decided.items()}
        for combine in (np.logical_and, lambda labels, given: labels.astype(np.float32) + given)
    )
    values = {
        "mAP": _resampled_map(labels, probabilities, known, weights),
        "precision_at_1": mean(metrics.top_label_is_right(raw, probabilities)),
        "macro_f1": metrics.ratio(*(2 * weights @ hits["macro_f1"], weights @ sizes["macro_f1"]), empty=0.0).mean(
            axis=1
        ),
        "micro_f1": metrics.ratio(
            2 * weights @ hits["micro_f1"].sum(axis=1), weights @ sizes["micro_f1"].sum(axis=1), empty=0.0
        ),
        "hamming_accuracy": metrics.ratio(
            weights @ ((labels == decided["hamming_accuracy"]) & known).sum(axis=1),
            weights @ known.sum(axis=1),
            empty=np.nan,
        ),
        "example_f1": mean(
            metrics.ratio(2 * hits["example_f1"].sum(axis=1), sizes["example_f1"].sum(axis=1), empty=1.0)
        ),
    }
    return {name: _around(result, drawn).tolist() for name, (result, *drawn) in values.items()}


def _around(result: float, drawn: Sequence[float]) -> np.ndarray:
    ends = np.nanquantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return np.clip(result + ends - np.nanmean(drawn), 0.0, 1.0)


def _resampled_map(labels: np.ndarray, probabilities: np.ndarray, known: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean average precision `[B]` of samples that count by weights `[B, N]`; NaN where no label has a positive."""
    by_sample = np.ascontiguousarray(weights.T)
    total, counted = np.zeros(len(weights)), np.zeros(len(weights))
    for label in np.flatnonzero(labels.any(axis=0)):
        rows = np.flatnonzero(known[:, label])
        order = rows[np.argsort(-probabilities[rows, label], kind="stable")]
        scores, present = -probabilities[order, label], labels[order, label]
        # Equal scores enter together.
        ends, own_ends = (
            np.searchsorted(each, scores[present], side="right") - 1 for each in (scores, scores[present])
        )
        ranked = by_sample[order]
        positives = ranked[present]
        positives_above = np.cumsum(positives, axis=0)[own_ends]
        number_above = np.cumsum(ranked, axis=0, out=ranked)[ends]
        summed = (positives * positives_above / np.maximum(number_above, 1)).sum(axis=0)
        weight = positives.sum(axis=0)
        total += summed / np.maximum(weight, 1)
        counted += weight > 0
    return metrics.ratio(total, counted, empty=np.nan)


class Chance(NamedTuple):
    """What predictions get that are dealt out to the samples at random.

    Attributes:
        mean: over the draws.
        deviation: between the draws.
    """

    mean: float
    deviation: float

    def covers(self, value: float) -> bool:
        """Whether a value is within chance, which lies above it in more than one of forty draws."""
        return value <= self.mean + _NORMAL * self.deviation


def chance_results(
    labels: np.ndarray,
    probabilities: np.ndarray,
    judge: Callable[[np.ndarray, np.ndarray], Mapping[str, float]],
    *,
    seed: int = 0,
) -> dict[str, Chance]:
    """What metrics are when each sample gets the predictions of another one, drawn at random [2].

    Such predictions know how frequent labels are and which go together, and nothing of a sample.

    Args:
        labels: `[N, C]`.
        probabilities: `[N, C]`.
        judge: from labels and probabilities to metrics by name.
        seed: of the draws, 20 to 50 by the size of the table.
    """
    rng = np.random.default_rng(seed)
    draws = int(np.clip(_DRAWN_NUMBERS / np.size(labels), *_DRAWS))
    results = [judge(labels[rng.permutation(len(labels))], probabilities) for _ in range(draws)]
    drawn = {name: [result[name] for result in results] for name in results[0]}
    return {name: Chance(float(np.mean(values)), float(np.std(values, ddof=1))) for name, values in drawn.items()}
