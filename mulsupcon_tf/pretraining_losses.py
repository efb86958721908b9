"""The losses of pretraining on encoded anchors and candidate keys, by method, and what a part of a batch counts in them."""

from typing import NamedTuple

import tensorflow as tf

from mulsupcon_tf.label_distribution import alignment_loss, contrastive_similarity_loss, rbf_similarity_loss
from mulsupcon_tf.losses import (
    all_positives,
    any_positives,
    jaccard_positives,
    own_key_positives,
    supervised_contrastive_loss,
    weighted_contrastive_loss,
)

METHODS = ("cld", "rld", "mulsupcon", "any", "all", "jaccard", "self")
RECOVERY_METHODS = ("cld", "rld")
LABEL_WEIGHING_METHODS = (*RECOVERY_METHODS, "mulsupcon")


class CandidateKeys(NamedTuple):
    """What the anchors of a batch are compared with: the batch's own keys first, then the queue.

    Attributes:
        embeddings: `[K, D]` unit rows.
        labels: `[K, C]`, 0 or 1.
        distributions: `[K, C]`.
        mask: `[K]` bool, False for queue slots that hold no key yet.
    """

    embeddings: tf.Tensor
    labels: tf.Tensor
    distributions: tf.Tensor
    mask: tf.Tensor


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


def contrastive_loss(
    method: str, queries, labels, label_weights, candidates: CandidateKeys, *, temperature: float,
    average: str = "anchor", first_key=0, share: Counts,
):  # fmt: skip
    """The contrastive loss of a method.

    Args:
        method: one of `METHODS`.
        queries: `[B, D]` unit rows.
        labels: `[B, C]` float32.
        label_weights: `[B, C]`, for the methods that weigh labels.
        candidates: K keys.
        temperature: τ.
        average: "anchor", or "pair" for "mulsupcon".
        first_key: the candidate that is the first anchor's own key; those of the others follow.
        share: the anchors' share in the batch.

    Returns:
        Scalar float32.
    """
    common = {"temperature": temperature, "key_mask": candidates.mask}
    if method in LABEL_WEIGHING_METHODS:
        anchor_weights = tf.reduce_sum(labels, axis=-1) if average == "pair" else None
        loss = weighted_contrastive_loss(
            queries, candidates.embeddings, candidates.labels, label_weights, anchor_weights=anchor_weights, **common
        )
        return loss * (share.pairs if average == "pair" else share.labelled)
    if method == "self":
        num_keys = tf.shape(candidates.labels)[0]
        positives = own_key_positives(tf.shape(queries)[0], num_keys, first_key=first_key)
        return supervised_contrastive_loss(queries, candidates.embeddings, positives, **common) * share.samples
    choose = {"any": any_positives, "all": all_positives, "jaccard": jaccard_positives}[method]
    positives = choose(labels, candidates.labels)
    return supervised_contrastive_loss(queries, candidates.embeddings, positives, **common) * share.labelled


def recovery_losses(
    method: str, distributions, queries, labels, candidates: CandidateKeys, *, kernel, temperature_d: float,
    rbf_sigma: float, alpha: float, beta: float, share: Counts,
) -> dict[str, tf.Tensor]:  # fmt: skip
    """L_rec = L_sim + α L_align + β ||W||².

    Args:
        method: "cld" or "rld".
        distributions: `[B, C]`, rows sum to 1.
        queries: `[B, D]` unit rows.
        labels: `[B, C]` float32.
        candidates: K keys.
        kernel: W `[R, C]` of the distribution head.
        temperature_d: τ_d, "cld".
        rbf_sigma: σ, "rld".
        alpha: α.
        beta: β.
        share: the anchors' share in the batch.

    Returns:
        Scalars float32: "recovery_loss" and its parts.
    """
    inputs = (distributions, candidates.distributions)
    if method == "cld":
        similarity = contrastive_similarity_loss(
            *inputs, labels, candidates.labels, temperature=temperature_d, key_mask=candidates.mask
        )
    else:
        cosines = tf.matmul(tf.stop_gradient(queries), candidates.embeddings, transpose_b=True)
        similarity = rbf_similarity_loss(
            *inputs, cosines, labels, candidates.labels, sigma=rbf_sigma, key_mask=candidates.mask
        )
    similarity *= share.labelled
    alignment = alignment_loss(distributions, labels) * share.labelled
    penalty = tf.reduce_sum(tf.square(kernel)) * share.samples
    recovery = similarity + alpha * alignment + beta * penalty
    return {"recovery_loss": recovery, "similarity_loss": similarity, "alignment_loss": alignment}
