"""The losses of pretraining on encoded anchors and candidate keys, by method, and what a part of a batch counts in them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from mulsupcon_tf.losses.contrastive import (
    affinity_positives,
    all_positives,
    any_positives,
    jaccard_positives,
    positives_contrast,
    uniform_label_weights,
    weighted_contrast,
)
from mulsupcon_tf.losses.partial_sums import KeyBlock, ceiling_of_cosines, label_sums, positive_sums, softmax_mean
from mulsupcon_tf.losses.recovery import alignment_loss, expected_distance, label_weights, rbf_mean
from mulsupcon_tf.utils.tensors import unit_rows

METHODS = ("cld", "rld", "mulsupcon", "any", "all", "jaccard", "self", "truth")
RECOVERY_METHODS = ("cld", "rld")
LABEL_WEIGHING_METHODS = (*RECOVERY_METHODS, "mulsupcon", "truth")
POSITIVES = {"any": any_positives, "all": all_positives, "jaccard": jaccard_positives}


class Counts(NamedTuple):
    """What the means of a batch run over. Every anchor's own key is a candidate, so each label has a key.

    An anchor's loss depends on the other anchors only through such a mean. So the loss of a batch is the sum over its
    parts, on one device or on several, of their losses, each mean weighted by the part's share in its count.

    Attributes:
        samples: B, scalar float32.
        labelled: anchors that have a label, scalar float32.
        pairs: (anchor, label) pairs, scalar float32.
    """

    samples: tf.Tensor
    labelled: tf.Tensor
    pairs: tf.Tensor


def presence(labels: tf.Tensor) -> tf.Tensor:
    """Logical labels `[B, C]` float32 of labels, or of label distributions: 1 where there is something of a label."""
    return tf.cast(tf.cast(labels, tf.float32) > 0, tf.float32)


def count(labels: tf.Tensor) -> Counts:
    """The counts of a batch with labels `[B, C]` float32."""
    numbers = tf.reduce_sum(labels, axis=-1)
    return Counts(
        samples=tf.cast(tf.shape(labels)[0], tf.float32),
        labelled=tf.reduce_sum(tf.cast(numbers > 0, tf.float32)),
        pairs=tf.reduce_sum(numbers),
    )


def shares(labels: tf.Tensor, whole: Counts | None) -> Counts:
    """What part of each count lies in labels `[B, C]` of a part; 0 where the whole has none.

    Args:
        labels: of the part.
        whole: counts of the whole batch; None where the part is the whole, whose shares are 1.
    """
    if whole is None:
        return Counts(1.0, 1.0, 1.0)
    return Counts(*(tf.math.divide_no_nan(part, total) for part, total in zip(count(labels), whole, strict=True)))


def label_weights_of(method: str, distributions, labels, *, rho: float):
    """How much each label of a sample counts, in a method that weighs labels; no gradient flows through it.

    Args:
        method: one of `LABEL_WEIGHING_METHODS`.
        distributions: `[N, C]`, for the methods that recover them, and for "truth", where rows of any sum are allowed.
        labels: `[N, C]` float32.
        rho: ρ, for the methods that recover distributions.

    Returns:
        w `[N, C]`: above 0 on a sample's labels, where rows sum to 1, and 0 elsewhere.
    """
    if method == "mulsupcon":
        return uniform_label_weights(labels)
    return label_weights(distributions, labels, rho=1.0 if method == "truth" else rho)


def key_statistics(
    method: str, queries, labels, distributions, *, temperature: float, temperature_d: float, rbf_sigma: float,
    label_weights=None, rho: float = 0.5, weigh_keys: bool = False, affinity_power: float = 0.0,
) -> Callable[[KeyBlock], dict[str, Any]]:  # fmt: skip
    """What the losses of a method need to know of the keys; no gradient flows through it.

    Args:
        method: one of `METHODS`.
        queries: `[B, D]` unit rows.
        labels: `[B, C]` float32.
        distributions: `[B, C]`, for the methods that recover them.
        temperature: τ.
        temperature_d: τ_d, "cld".
        rbf_sigma: σ, "rld".
        label_weights: `[B, C]`, `label_weights_of` the anchors, for `affinity_power`.
        rho: ρ of the keys' label weights, for `weigh_keys` and `affinity_power`.
        weigh_keys: whether a key counts in the mean of a label by its weight of the label, not just by carrying it.
        affinity_power: above 0, a method that weighs labels has keys count by `affinity_positives` with this power.

    Returns:
        A function from some keys to `SoftmaxMean` "contrast" and `Sums` "carriers" or "positives"; for recovery also
        "sharing", and "alike" or "nearest".
    """
    # Out of the function: a loop over blocks that reads a differentiated tensor would keep every block for its gradient.
    scaled = tf.stop_gradient(queries) / temperature
    ceiling, ceiling_d = ceiling_of_cosines(temperature), ceiling_of_cosines(temperature_d)
    by_affinity = affinity_power > 0 and method in LABEL_WEIGHING_METHODS
    unit_distributions = unit_rows(tf.stop_gradient(distributions)) / temperature_d if method == "cld" else None

    def of_block(block: KeyBlock) -> dict[str, Any]:
        logits = tf.matmul(scaled, block.embeddings, transpose_b=True) + (block.bias - ceiling)
        found: dict[str, Any] = {"contrast": softmax_mean(logits, block.embeddings, lowered=ceiling)}
        if method in LABEL_WEIGHING_METHODS:
            carried = block.labels
            if weigh_keys or by_affinity:
                carried = label_weights_of(method, block.distributions, block.labels, rho=rho)
            if by_affinity:
                positives = affinity_positives(label_weights, carried, power=affinity_power)
                found["positives"] = positive_sums(positives, block.embeddings)
            else:
                found["carriers"] = label_sums(carried, block.embeddings)
        elif method in POSITIVES:
            found["positives"] = positive_sums(POSITIVES[method](labels, block.labels), block.embeddings)
        if method in RECOVERY_METHODS:
            sharing = any_positives(labels, block.labels)
        if method == "cld":
            units = unit_rows(block.distributions)
            cosines = tf.matmul(unit_distributions, units, transpose_b=True) + (block.bias - ceiling_d)
            found["alike"] = softmax_mean(cosines, units, lowered=ceiling_d)
            found["sharing"] = positive_sums(sharing, units)
        elif method == "rld":
            found["nearest"] = rbf_mean(logits * (temperature / rbf_sigma**2), sharing, block.distributions)
            found["sharing"] = positive_sums(sharing, tf.ones_like(block.bias)[:, None])
        return found

    return of_block


def contrastive_loss(
    method: str, queries, labels, label_weights, found: dict[str, Any], *, temperature: float,
    average: str = "anchor", own_keys, share: Counts,
):  # fmt: skip
    """The contrastive loss of a method.

    Args:
        method: one of `METHODS`.
        queries: `[B, D]` unit rows.
        labels: `[B, C]` float32.
        label_weights: `[B, C]`, for the methods that weigh labels.
        found: `key_statistics` of all keys.
        temperature: τ.
        average: "anchor", or "pair" for "mulsupcon".
        own_keys: `[B, D]`, the keys of the anchors themselves.
        share: the anchors' share in the batch.

    Returns:
        Scalar float32.
    """
    scaled = queries / temperature
    repulsion = found["contrast"].differentiable(scaled)
    if "carriers" in found:
        anchor_weights = tf.reduce_sum(labels, axis=-1) if average == "pair" else None
        loss = weighted_contrast(scaled, repulsion, found["carriers"], label_weights, anchor_weights)
        return loss * (share.pairs if average == "pair" else share.labelled)
    if method == "self":
        return tf.reduce_mean(repulsion - tf.reduce_sum(scaled * own_keys, axis=-1)) * share.samples
    return positives_contrast(scaled, repulsion, found["positives"]) * share.labelled


def recovery_losses(
    method: str, distributions, labels, found: dict[str, Any], *, kernel, temperature_d: float,
    alpha: float, beta: float, share: Counts,
) -> dict[str, tf.Tensor]:  # fmt: skip
    """L_rec = L_sim + α L_align + β ||W||².

    Args:
        method: "cld" or "rld".
        distributions: `[B, C]`, rows sum to 1.
        labels: `[B, C]` float32.
        found: `key_statistics` of all keys.
        kernel: W `[R, C]` of the distribution head.
        temperature_d: τ_d, "cld".
        alpha: α.
        beta: β.
        share: the anchors' share in the batch.

    Returns:
        Scalars float32: "recovery_loss" and its parts.
    """
    if method == "cld":
        scaled = unit_rows(distributions) / temperature_d
        similarity = positives_contrast(scaled, found["alike"].differentiable(scaled), found["sharing"])
    else:
        similarity = expected_distance(distributions, found["nearest"].mean, found["sharing"].weight > 0)
    similarity *= share.labelled
    alignment = alignment_loss(distributions, labels) * share.labelled
    penalty = tf.reduce_sum(tf.square(kernel)) * share.samples
    recovery = similarity + alpha * alignment + beta * penalty
    return {"recovery_loss": recovery, "similarity_loss": similarity, "alignment_loss": alignment}
