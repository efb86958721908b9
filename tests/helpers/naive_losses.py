"""The losses of the package written as float64 NumPy loops over one (anchor, label, key) at a time.

Shared by the tests of the losses and of what calls them. Slow and plain on purpose: each follows its formula word by
word and takes nothing from the package.
"""

import math

import numpy as np


def random_problem(seed, *, batch=6, queued=9, dimensions=5, labels=4, single_label=False, unlabelled=False):
    """Anchors, and keys of which the first are the anchors' other views; every sample has a label unless asked."""
    rng = np.random.default_rng(seed)
    keys = batch + queued

    def unit(rows):
        vectors = rng.normal(size=(rows, dimensions))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def distributions(rows):
        odds = np.exp(rng.normal(size=(rows, labels)))
        return odds / odds.sum(axis=1, keepdims=True)

    key_labels = np.zeros((keys, labels)) if single_label else (rng.random((keys, labels)) < 0.4).astype(float)
    key_labels[np.arange(keys), rng.integers(labels, size=keys)] = 1.0
    if unlabelled:
        key_labels[[1, keys - 1]] = 0.0
    return {
        "queries": unit(batch),
        "keys": unit(keys),
        "labels": key_labels[:batch].copy(),
        "key_labels": key_labels,
        "distributions": distributions(batch),
        "key_distributions": distributions(keys),
    }


def log_softmax(row, visible=None):
    """Of one row, over its visible entries; minus infinity elsewhere."""
    visible = np.ones(len(row), bool) if visible is None else visible
    largest = max(value for value, seen in zip(row, visible, strict=True) if seen)
    total = sum(np.exp(value - largest) for value, seen in zip(row, visible, strict=True) if seen)
    return np.array(
        [value - largest - np.log(total) if seen else -np.inf for value, seen in zip(row, visible, strict=True)]
    )


def pair_losses(queries, keys, labels, key_labels, *, temperature, visible=None, key_weights=None):
    """The ancestor's row expansion: {(anchor, label): loss of the row}, for labels that a visible key carries.

    The keys that carry a label count by their weights of it, `[K, C]`; alike when None.
    """
    key_weights = key_labels if key_weights is None else key_weights
    visible = np.ones(len(keys), bool) if visible is None else visible
    rows = {}
    for i, query in enumerate(queries):
        log_probabilities = log_softmax([query @ key / temperature for key in keys], visible) if visible.any() else None
        for j in np.flatnonzero(labels[i]):
            carriers = [p for p in range(len(keys)) if visible[p] and key_labels[p, j]]
            if carriers:
                mass = sum(key_weights[p, j] for p in carriers)
                rows[i, j] = -sum(key_weights[p, j] * log_probabilities[p] for p in carriers) / mass
    return rows


def weighted_contrastive(queries, keys, labels, key_labels, weights, *, temperature, visible=None, key_weights=None):
    """Mean over anchors of the weighted mean of their rows."""
    how = {"temperature": temperature, "visible": visible, "key_weights": key_weights}
    rows = pair_losses(queries, keys, labels, key_labels, **how)
    losses = []
    for i in range(len(queries)):
        own = [(weights[i, j], loss) for (anchor, j), loss in rows.items() if anchor == i]
        if own:
            losses.append(sum(weight * loss for weight, loss in own) / sum(weight for weight, _ in own))
    return np.mean(losses) if losses else 0.0


def supervised_contrastive(queries, keys, positives, *, temperature, visible=None):
    """Mean over anchors that have a positive of their weighted mean of minus log-probabilities."""
    visible = np.ones(len(keys), bool) if visible is None else visible
    losses = []
    for i, query in enumerate(queries):
        chosen = [p for p in range(len(keys)) if visible[p] and positives[i, p] > 0]
        if chosen:
            log_probabilities = log_softmax([query @ key / temperature for key in keys], visible)
            mass = sum(positives[i, p] for p in chosen)
            losses.append(-sum(positives[i, p] * log_probabilities[p] for p in chosen) / mass)
    return np.mean(losses) if losses else 0.0


def label_sets(labels):
    """One set of label indices a sample."""
    return [set(np.flatnonzero(row)) for row in labels]


def positives_by(rule, labels, key_labels):
    """`[B, K]` of rule(label set of the anchor, label set of the key)."""
    return np.array([[float(rule(own, other)) for other in label_sets(key_labels)] for own in label_sets(labels)])


def share_a_label(own, other):
    """The rule of "any", and of P(i) in the recovery losses."""
    return bool(own & other)


def have_the_same_labels(own, other):
    """The rule of "all"."""
    return bool(own) and own == other


def jaccard_of_at_least(minimum):
    """The rule of "jaccard"."""

    def rule(own, other):
        index = len(own & other) / len(own | other) if own | other else 0.0
        return index if index >= minimum else 0.0

    return rule


def affinities(weights, key_weights, power):
    """`[B, K]`, the Bhattacharyya coefficient of two rows of label weights, to a power."""
    return np.array(
        [
            [sum(math.sqrt(w * v) for w, v in zip(own, other, strict=True)) ** power for other in key_weights]
            for own in weights
        ]
    )


def uniform_weights(labels):
    """y/|y|, zeros for a sample without labels."""
    return np.array([row / row.sum() if row.any() else row for row in labels])


def label_weights(distributions, labels, rho):
    """The mixture of uniform and recovered weights, on the sample's labels only."""
    weights = np.zeros_like(labels)
    for i, row in enumerate(labels):
        own = np.flatnonzero(row)
        mixed = {j: (1 - rho) / len(own) + rho * distributions[i, j] for j in own}
        for j in own:
            weights[i, j] = mixed[j] / sum(mixed.values())
    return weights


def alignment(distributions, labels):
    """Mean squared distance of distributions to y/|y| over the samples that have a label."""
    distances = [
        sum((d[j] - y[j] / y.sum()) ** 2 for j in range(len(y)))
        for d, y in zip(distributions, labels, strict=True)
        if y.any()
    ]
    return np.mean(distances) if distances else 0.0


def contrastive_similarity(distributions, key_distributions, labels, key_labels, *, temperature, visible=None):
    """CLD."""

    def unit(rows):
        return np.array([row / np.sqrt(sum(value * value for value in row)) for row in rows])

    positives = positives_by(share_a_label, labels, key_labels)
    units = unit(distributions), unit(key_distributions)
    return supervised_contrastive(*units, positives, temperature=temperature, visible=visible)


def rbf_similarity(distributions, key_distributions, labels, key_labels, *, queries, keys, sigma, visible=None):
    """RLD, with the kernel of the distances between embeddings."""
    visible = np.ones(len(keys), bool) if visible is None else visible
    positives = positives_by(share_a_label, labels, key_labels)
    losses = []
    for i, (query, distribution) in enumerate(zip(queries, distributions, strict=True)):
        chosen = [p for p in range(len(keys)) if visible[p] and positives[i, p]]
        if chosen:
            exponents = [-sum((keys[p] - query) ** 2) / (2 * sigma**2) for p in chosen]
            kernel = np.exp(log_softmax(exponents))
            losses.append(
                sum(a * sum((distribution - key_distributions[p]) ** 2) for a, p in zip(kernel, chosen, strict=True))
            )
    return np.mean(losses) if losses else 0.0


def central_differences(function, point, step=1e-5):
    """Gradient of a scalar function of one array."""
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        above, below = point.copy(), point.copy()
        above[index] += step
        below[index] -= step
        gradient[index] = (function(above) - function(below)) / (2 * step)
    return gradient
