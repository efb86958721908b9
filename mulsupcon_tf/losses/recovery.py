"""Label distributions: the head that predicts them, the label weights they give, the losses that recover them.

d_i = softmax(u_i), u_i = W r_i + b, says how much each label describes sample i. Logical labels say only which labels
are present; the recovery losses enhance them: aligned with the logical labels, alike for samples with common labels.

References:
    [1] Chen et al., Improving Multi-Label Contrastive Learning by Leveraging Label Distribution (MulSupConLD), arXiv
        2501.19145.
    [2] Xu, Liu, Geng, Label Enhancement for Label Distribution Learning, TKDE 2019.
"""

from keras import ops

from mulsupcon_tf.losses.contrastive import (
    anchor_mean,
    any_positives,
    supervised_contrastive_loss,
    uniform_label_weights,
)
from mulsupcon_tf.losses.partial_sums import SoftmaxMean, softmax_mean
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import float_tensors, require_positive, unit_rows


def label_weights(distributions, labels, *, rho=0.5):
    """How much each label of a sample counts in the contrastive loss [1].

    d̂_i = (1−ρ) y_i/|y_i| + ρ d_i,  w_i = sg( d̂_i ⊙ y_i / Σ_j d̂_ij y_ij ).

    Args:
        distributions: `[B, C]`, rows sum to 1; no gradient flows into them.
        labels: `[B, C]`, 0 or 1.
        rho: ρ in [0, 1], the share of the recovered distribution; 0 gives MulSupCon.

    Returns:
        `[B, C]` float32 (float64 for float64 distributions): rows sum to 1 and are exactly 0 on labels that the sample
        lacks; a row of zeros for a sample without labels.

    Raises:
        InputError: shapes disagree, or ρ lies outside [0, 1].
    """
    if not 0 <= rho <= 1:
        raise InputError(f"rho must lie in [0, 1]. Received: rho={rho}")
    distributions, labels = float_tensors(distributions=(distributions, "BC"), labels=(labels, "BC"))
    # At ρ = 1 a distribution may have no mass at all on the sample's labels; the trace of uniform weights then decides.
    mixed = max(1.0 - rho, 1e-12) * uniform_label_weights(labels) + rho * distributions * labels
    total = ops.sum(mixed, axis=-1, keepdims=True)
    return ops.stop_gradient(mixed / ops.where(total > 0, total, 1.0))


def alignment_loss(distributions, labels):
    """L_align = mean_i || d_i − y_i/|y_i| ||², which keeps the distributions close to the logical labels [1, 2].

    Args:
        distributions: `[B, C]`, rows sum to 1.
        labels: `[B, C]`, 0 or 1. Samples without labels are left out of the mean.

    Returns:
        Scalar, float32 (float64 for float64 distributions); 0 when no sample has a label.

    Raises:
        InputError: shapes disagree.
    """
    distributions, labels = float_tensors(distributions=(distributions, "BC"), labels=(labels, "BC"))
    distances = ops.sum(ops.square(distributions - uniform_label_weights(labels)), axis=-1)
    return anchor_mean(distances, _labelled(labels))


def contrastive_similarity_loss(
    distributions, key_distributions, labels, key_labels, *, temperature=0.5, key_mask=None
):
    """CLD: the distributions of samples that share a label attract each other, against all keys [1].

    L_i = −1/|P(i)| Σ_{p∈P(i)} log softmax_p( cos(d_i, sg d_p) / τ_d ),  P(i) = keys that share a label with anchor i.

    Args:
        distributions: `[B, C]`, rows sum to 1.
        key_distributions: `[K, C]`, rows sum to 1; no gradient flows into them.
        labels: `[B, C]`, 0 or 1.
        key_labels: `[K, C]`, 0 or 1.
        temperature: τ_d > 0.
        key_mask: `[K]` bool, False for queue slots that are not filled yet.

    Returns:
        Scalar, float32 (float64 for float64 distributions): the mean over the anchors that share a label with a key; 0
        when there is none.

    Raises:
        InputError: shapes disagree, or the temperature is not above 0.
    """
    distributions, key_distributions, labels, key_labels = float_tensors(
        distributions=(distributions, "BC"),
        key_distributions=(key_distributions, "KC"),
        labels=(labels, "BC"),
        key_labels=(key_labels, "KC"),
    )
    return supervised_contrastive_loss(
        unit_rows(distributions),
        unit_rows(key_distributions),
        any_positives(labels, key_labels),
        temperature=temperature,
        key_mask=key_mask,
    )


def rbf_similarity_loss(
    distributions, key_distributions, similarities, labels, key_labels, *, sigma=0.01, key_mask=None
):
    """RLD: a distribution is drawn to those of the samples that share a label, the nearest in the embedding first [1].

    L_i = Σ_{p∈P(i)} a_ip || d_i − sg d_p ||²,  a_i = sg softmax over P(i) of −||k_p − q_i||² / (2σ²),
    P(i) = keys that share a label with anchor i. The kernel is normalised because its bare value underflows to 0 at
    σ = 0.01 between any two unit vectors.

    Args:
        distributions: `[B, C]`, rows sum to 1.
        key_distributions: `[K, C]`, rows sum to 1; no gradient flows into them.
        similarities: `[B, K]` q_i·k_p of the unit embeddings; no gradient flows into them.
        labels: `[B, C]`, 0 or 1.
        key_labels: `[K, C]`, 0 or 1.
        sigma: σ > 0, the width of the kernel.
        key_mask: `[K]` bool, False for queue slots that are not filled yet.

    Returns:
        Scalar, float32 (float64 for float64 distributions): the mean over the anchors that share a label with a key; 0
        when there is none.

    Raises:
        InputError: shapes disagree, or σ is not above 0.
    """
    require_positive(sigma=sigma)
    distributions, key_distributions, similarities, labels, key_labels, key_mask = float_tensors(
        distributions=(distributions, "BC"),
        key_distributions=(key_distributions, "KC"),
        similarities=(similarities, "BK"),
        labels=(labels, "BC"),
        key_labels=(key_labels, "KC"),
        key_mask=(key_mask, "K"),
    )
    if key_mask is not None:
        key_labels = key_labels * key_mask[:, None]
    positives = any_positives(labels, key_labels)
    nearest = rbf_mean(similarities / sigma**2, positives, key_distributions)
    return expected_distance(distributions, nearest.mean, ops.any(positives > 0, axis=-1))


def rbf_mean(logits, positives, key_distributions) -> SoftmaxMean:
    """Means under the kernel a_i of RLD: of the distributions d_p, and in one more column of ||d_p||².

    Args:
        logits: `[B, N]`, q_i·k_p / σ²: between unit vectors −||k − q||²/(2σ²) = (q·k − 1)/σ², and a softmax does not
            see the constant.
        positives: `[B, N]`, 0 or 1.
        key_distributions: `[N, C]`.

    Returns:
        Means `[B, C + 1]`.
    """
    squares = ops.sum(ops.square(key_distributions), axis=-1, keepdims=True)
    return softmax_mean(ops.where(positives > 0, logits, -1e30), ops.concatenate([key_distributions, squares], axis=-1))


def expected_distance(distributions, nearest, counted):
    """The loss of RLD from `rbf_mean`.

    Args:
        distributions: `[B, C]`.
        nearest: `[B, C + 1]`; no gradient flows into it.
        counted: `[B]` bool, the anchors that share a label with a key.

    Returns:
        Scalar.
    """
    nearest = ops.stop_gradient(nearest)
    # Σ_p a_ip ||d_i − d_p||² is the distance to the weighted mean plus the variance around it. Only the former depends
    # on d_i, so nothing of the size [B, K] takes part in the backward pass.
    center = nearest[:, :-1]
    variance = nearest[:, -1] - ops.sum(ops.square(center), axis=-1)
    distances = ops.sum(ops.square(distributions - center), axis=-1) + variance
    return anchor_mean(distances, ops.cast(counted, distances.dtype))


def label_leak(distributions, labels):
    """Mean mass of the distributions on labels that their samples lack, over the samples that have a label.

    Args:
        distributions: `[B, C]`, rows sum to 1.
        labels: `[B, C]`, 0 or 1.

    Returns:
        Scalar in [0, 1], float32 (float64 for float64 distributions); 0 when no sample has a label.

    Raises:
        InputError: shapes disagree.
    """
    distributions, labels = float_tensors(distributions=(distributions, "BC"), labels=(labels, "BC"))
    return anchor_mean(ops.sum(distributions * (1.0 - labels), axis=-1), _labelled(labels))


def label_weight_entropy(label_weights):
    """Mean entropy of label weights in nats over the samples that have a label: ln |y_i| when all count alike.

    Args:
        label_weights: `[B, C]`, rows sum to 1, or to 0 for a sample without labels.

    Returns:
        Scalar, float32 (float64 for float64 weights); 0 when no sample has a label.
    """
    (weights,) = float_tensors(label_weights=(label_weights, "BC"))
    entropies = -ops.sum(weights * ops.log(ops.where(weights > 0, weights, 1.0)), axis=-1)
    return anchor_mean(entropies, _labelled(weights))


def _labelled(labels):
    """`[B]` of 0 and 1: the rows of labels or label weights `[B, C]` that are not all 0."""
    return ops.cast(ops.sum(labels, axis=-1) > 0, labels.dtype)
