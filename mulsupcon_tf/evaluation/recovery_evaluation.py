"""Recovered label distributions against true ones, beside two controls that need no recovery."""

import math
from typing import Any

import numpy as np

from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.evaluation.distribution_distances import (
    compare_distributions,
    smoothed_label_distribution,
    uniform_label_distribution,
)

NEIGHBOURS = 10


def judge_recovery(
    dataset: MultiLabelDataset, recovered: np.ndarray, features: np.ndarray, rho: float
) -> dict[str, Any]:
    """Distances to the truth on the test split.

    Args:
        dataset: one whose test split has true distributions.
        recovered: `[N, C]` d of the test samples.
        features: `[N, R]` their representations, for the smoothed control.
        rho: ρ of the run, for the mixture that the label weights are made of.

    Returns:
        A dict of `compare_distributions` results: "recovered" (d), "mixture" ((1-ρ) y/|y| + ρ d, which the label
        weights are made of), and the controls "uniform" (y/|y|) and "smoothed" (y/|y| averaged over near samples); None
        for a measure that is not defined on these data.
    """
    test = dataset.splits["test"]
    labels = test.labels.astype(np.float64)
    uniform = uniform_label_distribution(labels)
    candidates = {
        "recovered": recovered,
        "mixture": (1 - rho) * uniform + rho * recovered,
        "uniform": uniform,
        "smoothed": smoothed_label_distribution(labels, features, min(NEIGHBOURS, len(labels) - 1)),
    }
    assert test.distributions is not None
    judged = {
        name: compare_distributions(test.distributions, candidate, labels) for name, candidate in candidates.items()
    }
    return {
        name: {measure: None if math.isnan(value) else value for measure, value in measures.items()}
        for name, measures in judged.items()
    }
