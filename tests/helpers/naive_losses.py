"""The losses of the package written as float64 NumPy loops over one (anchor, key, label) at a time.

Shared by the tests of the losses and of what calls them. Slow and plain on purpose: each follows its equation word by
word and takes nothing from the package. Numbers of equations are those of arXiv 2501.19145v1.
"""

import math

import numpy as np


def random_problem(
    seed, *, batch=6, queued=9, dimensions=5, labels=4, features=3, single_label=False, unlabelled=False
):
    """Anchors, and keys of which the first are the anchors' other views; every sample has a label unless asked.

    The own key of an anchor carries the anchor's labels and distribution.
    """
    rng = np.random.default_rng(seed)
    keys = batch + queued

    def unit(rows):
        vectors = rng.normal(size=(rows, dimensions))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    key_labels = np.zeros((keys, labels)) if single_label else (rng.random((keys, labels)) < 0.4).astype(float)
    key_labels[np.arange(keys), rng.integers(labels, size=keys)] = 1.0
    if unlabelled:
        key_labels[[1, keys - 1]] = 0.0
    key_distributions = softmax(rng.normal(size=(keys, labels)))
    return {
        "queries": unit(batch),
        "keys": unit(keys),
        "labels": key_labels[:batch].copy(),
        "key_labels": key_labels,
        "distributions": key_distributions[:batch].copy(),
        "key_distributions": key_distributions,
        "kernel": rng.normal(size=(features, labels)),
    }


def with_true_distributions(problem):
    """The problem with distributions that have mass on the samples' labels only; rows of zeros without labels."""
    key_distributions = problem["key_distributions"] * problem["key_labels"]
    key_distributions = key_distributions / np.maximum(key_distributions.sum(1, keepdims=True), 1e-300)
    distributions = key_distributions[: len(problem["labels"])].copy()
    return problem | {"distributions": distributions, "key_distributions": key_distributions}


def softmax(logits):
    """Of each row."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def log_softmax(row, visible=None):
    """Of one row, over its visible entries; minus infinity elsewhere."""
    visible = np.ones(len(row), bool) if visible is None else visible
    largest = max(value for value, seen in zip(row, visible, strict=True) if seen)
    total = sum(np.exp(value - largest) for value, seen in zip(row, visible, strict=True) if seen)
    return np.array(
        [value - largest - np.log(total) if seen else -np.inf for value, seen in zip(row, visible, strict=True)]
    )


def log_softmax_of_keys(queries, keys, *, temperature, visible=None):
    """(10), C²_ip `[B, K]`."""
    return np.array([log_softmax([query @ key / temperature for key in keys], visible) for query in queries])


def visible_positives(labels, key_labels, visible=None):
    """Each (i, p) of P(i): a visible key that shares a label with the anchor."""
    for i, own in enumerate(labels):
        for p, other in enumerate(key_labels):
            if (visible is None or visible[p]) and (own * other).any():
                yield i, p


def published(
    problem, *, method, cld_kernel, temperature, rbf_sigma, alpha, beta, own_distributions=None, visible=None
):
    """(6) to (15), divided by the number of anchors.

    In (7) and (8) the own key carries the anchor's distribution, in (12) `own_distributions` `[B, C]`: when None the
    anchor's too.
    """
    queries, keys, labels, key_labels = (problem[name] for name in ("queries", "keys", "labels", "key_labels"))
    distributions, key_distributions = problem["distributions"], problem["key_distributions"]
    batch = len(queries)
    log_odds = log_softmax_of_keys(queries, keys, temperature=temperature, visible=visible)
    own_distributions = distributions if own_distributions is None else own_distributions
    contrast = similarity = alignment = 0.0
    for i, p in visible_positives(labels, key_labels, visible):
        carried = own_distributions[i] if p == i else key_distributions[p]
        for j in range(len(labels[i])):
            contrast -= labels[i, j] * key_labels[p, j] * carried[j] * log_odds[i, p]
        recovered = distributions[i] if p == i else key_distributions[p]
        if method == "rld":
            weight = math.exp(-sum((queries[i] - keys[p]) ** 2) / (2 * rbf_sigma**2))
        else:
            weight = {"negative": -log_odds[i, p], "softmax": math.exp(log_odds[i, p]), "printed": log_odds[i, p]}[
                cld_kernel
            ]
        similarity += weight * sum((distributions[i] - recovered) ** 2)
        alignment += sum((key_labels[p] - recovered) ** 2)
    recovery = similarity + alpha * alignment + beta * batch * (problem["kernel"] ** 2).sum()
    sums = {
        "contrastive_loss": contrast,
        "similarity_loss": similarity,
        "alignment_loss": alignment,
        "recovery_loss": recovery,
        "loss": contrast + recovery,
    }
    return {name: value / batch for name, value in sums.items()}


def contrast_by_distribution(queries, keys, labels, key_labels, key_distributions, *, temperature, visible=None):
    """The first term of (12), divided by the number of anchors."""
    log_odds = log_softmax_of_keys(queries, keys, temperature=temperature, visible=visible)
    total = 0.0
    for i, p in visible_positives(labels, key_labels, visible):
        total -= sum(labels[i] * key_labels[p] * key_distributions[p]) * log_odds[i, p]
    return total / len(queries)


def pair_losses(queries, keys, labels, key_labels, *, temperature, visible=None):
    """The rows of (3): {(anchor, label): −1/|P_j(i)| Σ_{p∈P_j(i)} C²_ip}."""
    log_odds = log_softmax_of_keys(queries, keys, temperature=temperature, visible=visible)
    rows = {}
    for i in range(len(queries)):
        for j in np.flatnonzero(labels[i]):
            carriers = [p for p in range(len(keys)) if (visible is None or visible[p]) and key_labels[p, j]]
            rows[i, j] = -sum(log_odds[i, p] for p in carriers) / len(carriers)
    return rows


def mulsupcon(queries, keys, labels, key_labels, *, temperature, average, visible=None):
    """(4): the mean over all pairs; or by anchor."""
    rows = pair_losses(queries, keys, labels, key_labels, temperature=temperature, visible=visible)
    if average == "pair":
        return np.mean(list(rows.values())) if rows else 0.0
    anchors = sorted({i for i, _ in rows})
    means = [np.mean([loss for (i, _), loss in rows.items() if i == anchor]) for anchor in anchors]
    return np.mean(means) if means else 0.0


def supervised_contrastive(queries, keys, positives, *, temperature, visible=None, number=None):
    """L_out of SupCon with weighted positives, added up over the anchors that have one and divided by `number`.

    That is how many they are when None.
    """
    log_odds = log_softmax_of_keys(queries, keys, temperature=temperature, visible=visible)
    losses = []
    for i in range(len(queries)):
        chosen = [p for p in range(len(keys)) if (visible is None or visible[p]) and positives[i, p] > 0]
        if chosen:
            mass = sum(positives[i, p] for p in chosen)
            losses.append(-sum(positives[i, p] * log_odds[i, p] for p in chosen) / mass)
    return sum(losses) / (len(losses) if number is None else number) if losses else 0.0


def label_sets(labels):
    """One set of label indices a sample."""
    return [set(np.flatnonzero(row)) for row in labels]


def positives_by(rule, labels, key_labels):
    """`[B, K]` of rule(label set of the anchor, label set of the key)."""
    return np.array([[float(rule(own, other)) for other in label_sets(key_labels)] for own in label_sets(labels)])


def share_a_label(own, other):
    """The rule of "any"."""
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


def losses_of(
    name,
    problem,
    *,
    temperature=0.1,
    alpha=1.0,
    beta=1e-3,
    cld_kernel="softmax",
    rbf_sigma=0.01,
    average="pair",
    own_distributions=None,
    visible=None,
):
    """The losses of the method of a name, by the names under which the package returns them."""
    contrasted = problem["queries"], problem["keys"]
    labels, key_labels = problem["labels"], problem["key_labels"]
    how = {"temperature": temperature, "visible": visible}
    if name in ("rld", "cld"):
        weights = {"rbf_sigma": rbf_sigma, "cld_kernel": cld_kernel, "alpha": alpha, "beta": beta}
        return published(problem, method=name, own_distributions=own_distributions, **weights, **how)
    if name == "mulsupcon":
        loss = mulsupcon(*contrasted, labels, key_labels, average=average, **how)
    elif name == "truth":
        loss = contrast_by_distribution(*contrasted, labels, key_labels, problem["key_distributions"], **how)
    elif name == "self":
        loss = supervised_contrastive(*contrasted, np.eye(len(labels), len(key_labels)), **how)
    else:
        rule = {"any": share_a_label, "all": have_the_same_labels, "jaccard": jaccard_of_at_least(0.5)}[name]
        loss = supervised_contrastive(*contrasted, positives_by(rule, labels, key_labels), **how)
    return {"contrastive_loss": loss, "loss": loss}


def central_differences(function, point, step=1e-5):
    """Gradient of a scalar function of one array."""
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        above, below = point.copy(), point.copy()
        above[index] += step
        below[index] -= step
        gradient[index] = (function(above) - function(below)) / (2 * step)
    return gradient
