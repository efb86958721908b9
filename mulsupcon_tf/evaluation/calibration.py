"""Whether probabilities can be taken at their word: of decisions given p, a share of p is to be right.

References:
    [1] Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599: temperature scaling, and the
        expected calibration error in 15 bins of equal width.
    [2] Platt, Probabilistic Outputs for Support Vector Machines, 1999: with an offset.
"""

import logging
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from mulsupcon_tf.evaluation.metrics import check_scores, known_of
from mulsupcon_tf.evaluation.thresholds import check_probabilities

NUM_BINS = 15
_TEMPERATURES = (0.05, 20.0)


class Calibration(NamedTuple):
    """Calibrated probabilities are sigmoid(x / T + b) of the logits x, in the order of the logits.

    Attributes:
        temperature: T > 0; above 1 makes probabilities less extreme.
        offset: b.
    """

    temperature: float = 1.0
    offset: float = 0.0

    def of(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities of logits, of any shape, float64."""
        return expit(np.asarray(logits, np.float64) / self.temperature + self.offset)


def fit_calibration(labels: np.ndarray, logits: np.ndarray, *, with_offset: bool) -> Calibration:
    """The temperature [1], and the offset [2], of the lowest binary cross-entropy over all samples and labels.

    It is convex in 1/T and b. T is looked for between 0.05 and 20. Where the best one lies beyond, the labels do not say
    which it is: they follow from the logits without an error, or not at all. The logits keep their scale then, T = 1, as one
    warning line says: at the bound all probabilities would be rounded to 0 and 1, or all would be nearly alike.

    Args:
        labels: `[N, C]` of validation, 0 or 1.
        logits: `[N, C]`. Not the probabilities of them, which float32 rounds to 0 and 1.
        with_offset: whether b is fitted too; 0 without.

    Returns:
        T = 1 and b = 0 where all decisions are the same, from which nothing can be learnt.

    Raises:
        InputError: the tables do not fit each other or a logit is not finite.
    """
    known = known_of(labels)
    labels, logits = check_scores(labels, logits)
    values, truth = logits[known], labels[known]
    if truth.all() or not truth.any():
        return Calibration()

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scale, offset = parameters
        scaled = scale * values + offset
        errors = expit(scaled) - truth
        return float(np.mean(np.logaddexp(0, scaled) - truth * scaled)), np.array(
            [np.mean(errors * values), np.mean(errors)]
        )

    def fitted(scales: tuple[float, float]) -> tuple[float, float]:
        # Logits without a zero may lie anywhere: the middle of them is where the search begins.
        start = [1.0, -float(np.median(values)) if with_offset else 0.0]
        found = minimize(
            loss_and_gradient,
            start,
            jac=True,
            bounds=[scales, (None, None) if with_offset else (0.0, 0.0)],
            method="L-BFGS-B",
            options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 200},
        )
        return float(found.x[0]), float(found.x[1])

    bounds = (1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0])
    scale, offset = fitted(bounds)
    if np.isclose(scale, bounds, rtol=1e-6).any():
        lowest, highest = _TEMPERATURES
        logging.getLogger("mulsupcon_tf").warning(
            "warning: the temperature that fits validation best is not within %g and %g (%s): 1 is taken",
            lowest,
            highest,
            "labels follow without an error, or logits are tiny"
            if scale > 1
            else "labels hardly follow from the logits",
        )
        scale, offset = fitted((1.0, 1.0))
    return Calibration(1 / scale, offset)


class ReliabilityBin(NamedTuple):
    """Decisions whose probabilities are about the same.

    Attributes:
        decisions: how many (sample, label) pairs.
        probability: their mean probability.
        share: how many of them have the label, from 0 to 1.
    """

    decisions: int
    probability: float
    share: float


def reliability(labels: np.ndarray, probabilities: np.ndarray, num_bins: int = NUM_BINS) -> list[ReliabilityBin]:
    """All decisions on known labels in bins of equal width of their probability [1], lowest first; empty bins are left out.

    Args:
        labels: `[N, C]`, 0 or 1.
        probabilities: `[N, C]` in [0, 1].
        num_bins: how many bins [0, 1] is cut into; a probability on a border belongs to the higher bin.

    Raises:
        InputError: the tables do not fit each other or a probability is not in [0, 1].
    """
    known = known_of(labels)
    labels, probabilities = check_probabilities(labels, probabilities)
    bins = np.minimum((probabilities[known] * num_bins).astype(np.int64), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    sums, hits = (np.bincount(bins, values[known], minlength=num_bins) for values in (probabilities, labels))
    return [
        ReliabilityBin(int(count), float(total / count), float(right / count))
        for count, total, right in zip(counts, sums, hits, strict=True)
        if count
    ]


def calibration_error(bins: list[ReliabilityBin]) -> float:
    """Expected calibration error [1]: mean of |share − probability| over the decisions, bin by bin."""
    decisions = sum(each.decisions for each in bins)
    return sum(each.decisions * abs(each.share - each.probability) for each in bins) / max(decisions, 1)
