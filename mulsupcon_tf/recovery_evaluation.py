"""Recovered label distributions against true ones, beside two controls that need no recovery."""

from typing import Any

import numpy as np

from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.distribution_distances import (
    compare_distributions,
    smoothed_label_distribution,
    uniform_label_distribution,
)


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
        weights are made of), and the controls "uniform" (y/|y|) and "smoothed" (y/|y| averaged over near samples).
    """
    test = dataset.splits["test"]
    labels = test.labels.astype(np.float64)
    uniform = uniform_label_distribution(labels)
    candidates = {
        "recovered": recovered,
        "mixture": (1 - rho) * uniform + rho * recovered,
        "uniform": uniform,
        "smoothed": smoothed_label_distribution(labels, features),
    }
    assert test.distributions is not None
    return {
        name: compare_distributions(test.distributions, candidate, labels) for name, candidate in candidates.items()
    }
