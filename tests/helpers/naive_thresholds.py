"""Labels with probabilities, and what scikit-learn's metrics and a search over all thresholds say of them."""

import numpy as np
import sklearn.metrics

TWENTIETHS = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5]
TWENTIETHS += [0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
TENTHS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def random_split(seed, samples=80, labels=6):
    rng = np.random.default_rng(seed)
    truth = (rng.random((samples, labels)) < np.linspace(0.05, 0.6, labels)).astype(np.uint8)
    truth[0] = 0
    logits = rng.normal(-1, 1.5, (samples, labels)) + 2 * truth
    return truth, 1 / (1 + np.exp(-logits))


def reference_scores(truth, predicted):
    def f1(average, empty):
        return sklearn.metrics.f1_score(truth, predicted, average=average, zero_division=empty)

    return {
        "macro_f1": f1("macro", 0),
        "micro_f1": f1("micro", 0),
        "hamming_accuracy": 1 - sklearn.metrics.hamming_loss(truth, predicted),
        "example_f1": f1("samples", 1),
    }


def naive_thresholds(truth, probabilities, grid):
    """Best of the grid; of the best ones the nearest to 0.5, of two equally near ones the lower."""
    tables = [reference_scores(truth, (probabilities > threshold).astype(int)) for threshold in grid]
    chosen = {}
    for name in tables[0]:
        best = max(table[name] for table in tables)
        tied = [threshold for threshold, table in zip(grid, tables, strict=True) if table[name] > best - 1e-11]
        distance = min(abs(threshold - 0.5) for threshold in tied)
        chosen[name] = min(threshold for threshold in tied if abs(threshold - 0.5) < distance + 1e-9)
    return chosen
