"""The contrastive losses: label-weighted (MulSupCon and its relatives), and over given positives (SupCon, MoCo).

References:
    [1] Khosla et al., Supervised Contrastive Learning (SupCon), arXiv 2004.11362.
    [2] He et al., Momentum Contrast for Unsupervised Visual Representation Learning (MoCo), arXiv 1911.05722.
    [3] Zhang and Wu, Multi-Label Supervised Contrastive Learning (MulSupCon), AAAI 2024.
    [4] Bhattacharyya, On a measure of divergence between two statistical populations, 1943.
"""

import keras
from keras import ops

from mulsupcon_tf.losses.partial_sums import label_sums
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import float_tensors, require_positive, unit_rows

# Added to the logit of a key that must not be seen. Finite, so that a row in which every key is hidden has a finite
# logsumexp and a zero, not a NaN, gradient.
HIDDEN = -1e9


def weighted_contrastive_loss(
    queries, keys, key_labels, label_weights, *, temperature=0.1, key_mask=None, anchor_weights=None
):
    """Supervised contrastive loss in which each label of the anchor counts by its weight.

    L_i = logsumexp_p(q_i·k_p / τ) − q_i · Σ_j w_ij P_j / τ,  P_j = mean of the keys by how much of label j they carry.
    Where a key carries a label or does not, uniform weights make this MulSupCon [3], and one label per sample SupCon
    [1, eq. 2]. The ancestor expands an anchor to one row per label, which is the same loss at |y_i| times the work.

    A label that no key carries has no prototype: it is left out and the weights of the anchor's other labels are
    renormalised.

    Args:
        queries: `[B, D]` unit rows.
        keys: `[K, D]` unit rows; no gradient flows into them.
        key_labels: `[K, C]` >= 0, how much of each label a key carries; 0 or 1 for MulSupCon.
        label_weights: `[B, C]`, rows sum to 1 and are 0 on labels that the anchor lacks.
            An anchor without labels has a row of zeros and is left out of the mean.
        temperature: τ > 0.
        key_mask: `[K]` bool, False for queue slots that are not filled yet.
        anchor_weights: `[B]` >= 0, how much each anchor counts in the mean; equal when None. A label that no key
            carries takes its share of the anchor's weight with it, so uniform label weights with anchor weights |y_i|
            give the mean over all (anchor, label) pairs.

    Returns:
        Scalar, float32 (float64 for float64 queries); 0 when no anchor has a label.

    Raises:
        InputError: shapes disagree, or the temperature is not above 0.
    """
    require_positive(temperature=temperature)
    queries, keys, key_labels, label_weights, key_mask, anchor_weights = float_tensors(
        queries=(queries, "BD"),
        keys=(keys, "KD"),
        key_labels=(key_labels, "KC"),
        label_weights=(label_weights, "BC"),
        key_mask=(key_mask, "K"),
        anchor_weights=(anchor_weights, "B"),
    )
    keys = ops.stop_gradient(keys)
    if key_mask is not None:
        key_labels = key_labels * key_mask[:, None]
    carriers = label_sums(key_labels, keys)
    # Scaled before the matmul: a [B, D] division in place of a [B, K] one, forward and backward.
    queries = queries / temperature
    repulsion = _logsumexp(ops.matmul(queries, ops.transpose(keys)), key_mask)
    return weighted_contrast(queries, repulsion, carriers, label_weights, anchor_weights)


def weighted_contrast(scaled_queries, repulsion, carriers, label_weights, anchor_weights=None):
    """`weighted_contrastive_loss` from what it needs to know of the keys.

    Args:
        scaled_queries: `[B, D]`, q / τ.
        repulsion: `[B]`, logsumexp_p(q_i·k_p / τ).
        carriers: `Sums` `[C]`, `[C, D]` of the keys that carry each label, by how much of it they carry.
        label_weights: `[B, C]`.
        anchor_weights: `[B]`, or None.

    Returns:
        Scalar.
    """
    weights = ops.where(carriers.weight > 0, label_weights, 0.0)
    share = ops.sum(weights, axis=-1)
    weights = weights / ops.where(share > 0, share, 1.0)[:, None]
    attraction = ops.sum(scaled_queries * ops.matmul(weights, carriers.mean()), axis=-1)
    losses = repulsion - attraction
    counted = ops.cast(share > 0, losses.dtype) if anchor_weights is None else anchor_weights * share
    return anchor_mean(losses, counted)


def supervised_contrastive_loss(queries, keys, positives, *, temperature=0.1, key_mask=None):
    """Contrastive loss over given positives: SupCon [1, eq. 2], MoCo [2, eq. 1], or positives that count by a weight.

    L_i = −Σ_p a_ip / Σ_p a_ip · log softmax_p(q_i·k_p / τ).

    Args:
        queries: `[B, D]` unit rows.
        keys: `[K, D]` unit rows; no gradient flows into them.
        positives: `[B, K]` weights a_ip >= 0, 0 for a negative. An anchor without positives is left out of the mean.
        temperature: τ > 0.
        key_mask: `[K]` bool, False for queue slots that are not filled yet.

    Returns:
        Scalar, float32 (float64 for float64 queries); 0 when no anchor has a positive.

    Raises:
        InputError: shapes disagree, or the temperature is not above 0.
    """
    require_positive(temperature=temperature)
    queries, keys, positives, key_mask = float_tensors(
        queries=(queries, "BD"), keys=(keys, "KD"), positives=(positives, "BK"), key_mask=(key_mask, "K")
    )
    if key_mask is not None:
        positives = positives * key_mask
    logits = ops.matmul(queries / temperature, ops.transpose(ops.stop_gradient(keys)))
    losses, has_positive = _losses_over_positives(logits, positives, key_mask)
    return anchor_mean(losses, has_positive)


def positives_contrast(scaled_queries, repulsion, positives):
    """`supervised_contrastive_loss` from what it needs to know of the keys.

    Args:
        scaled_queries: `[B, D]`, q / τ.
        repulsion: `[B]`, logsumexp_p(q_i·k_p / τ).
        positives: `Sums` `[B]`, `[B, D]` of the anchors' positive keys.

    Returns:
        Scalar.
    """
    losses = repulsion - ops.sum(scaled_queries * positives.mean(), axis=-1)
    return anchor_mean(losses, ops.cast(positives.weight > 0, losses.dtype))


def uniform_label_weights(labels):
    """Label weights of MulSupCon [3]: y_i / |y_i|, a row of zeros for a sample without labels.

    Args:
        labels: `[B, C]`, 0 or 1.

    Returns:
        `[B, C]` float32 (float64 for float64 labels).
    """
    (labels,) = float_tensors(labels=(labels, "BC"))
    return labels / ops.maximum(ops.sum(labels, axis=-1, keepdims=True), 1.0)


def any_positives(labels, key_labels):
    """Positives that share at least one label with the anchor ("any").

    Args:
        labels: `[B, C]`, 0 or 1.
        key_labels: `[K, C]`, 0 or 1.

    Returns:
        `[B, K]` of 0 and 1, float32 (float64 for float64 labels).
    """
    labels, key_labels = float_tensors(labels=(labels, "BC"), key_labels=(key_labels, "KC"))
    # The count of shared labels is a whole number, so the clip is the test for at least one.
    return ops.minimum(ops.matmul(labels, ops.transpose(key_labels)), 1.0)


def all_positives(labels, key_labels):
    """Positives that have exactly the anchor's labels ("all"); an anchor without labels has none.

    Args:
        labels: `[B, C]`, 0 or 1.
        key_labels: `[K, C]`, 0 or 1.

    Returns:
        `[B, K]` of 0 and 1, float32 (float64 for float64 labels).
    """
    # Two sets are equal when their Jaccard index is 1, and the quotient of equal whole numbers is exactly 1.
    return jaccard_positives(labels, key_labels, minimum=1.0)


def jaccard_positives(labels, key_labels, *, minimum=0.5):
    """Positives weighted by the Jaccard index of the two label sets, 0 where it is below the minimum.

    Args:
        labels: `[B, C]`, 0 or 1.
        key_labels: `[K, C]`, 0 or 1.
        minimum: the smallest index of a positive, in (0, 1].

    Returns:
        `[B, K]` in [0, 1], float32 (float64 for float64 labels); a row of zeros for an anchor without labels.

    Raises:
        InputError: shapes disagree, or the minimum lies outside (0, 1].
    """
    if not 0 < minimum <= 1:
        raise InputError(f"minimum must lie in (0, 1]. Received: minimum={minimum}")
    labels, key_labels = float_tensors(labels=(labels, "BC"), key_labels=(key_labels, "KC"))
    shared = ops.matmul(labels, ops.transpose(key_labels))
    either = ops.sum(labels, axis=-1)[:, None] + ops.sum(key_labels, axis=-1) - shared
    index = shared / ops.maximum(either, 1.0)
    return ops.where(index >= minimum, index, 0.0)


def affinity_positives(label_weights, key_label_weights, *, power=16.0):
    """Positives weighted by how alike their label weights are to the anchor's: (Σ_j √(w_ij w_pj))^power.

    The sum is the Bhattacharyya coefficient [4], 1 for equal weights and 0 where no label is shared. With weights y / |y|
    it is |y_i ∩ y_p| / √(|y_i| |y_p|), and a large power leaves those with the same labels alone.

    Args:
        label_weights: `[B, C]` >= 0, rows sum to 1, or to 0 without labels.
        key_label_weights: `[K, C]`, likewise.
        power: above 0.

    Returns:
        `[B, K]` in [0, 1], float32 (float64 for float64 weights); a row of zeros for an anchor without labels.

    Raises:
        InputError: shapes disagree, or the power is not above 0.
    """
    require_positive(power=power)
    label_weights, key_label_weights = float_tensors(
        label_weights=(label_weights, "BC"), key_label_weights=(key_label_weights, "KC")
    )
    coefficient = ops.matmul(ops.sqrt(label_weights), ops.transpose(ops.sqrt(key_label_weights)))
    return ops.minimum(coefficient, 1.0) ** power


def own_key_positives(batch_size, num_keys, *, first_key=0):
    """Positives of MoCo [2]: one key alone, its other view, for each anchor.

    Args:
        batch_size: B.
        num_keys: K >= B.
        first_key: the key of anchor 0; the other anchors' follow it in order.

    Returns:
        `[B, K]` of 0 and 1, float32.

    Raises:
        InputError: K < B, where both are known while tracing.
    """
    if isinstance(batch_size, int) and isinstance(num_keys, int) and num_keys < batch_size:
        raise InputError(f"num_keys must be at least batch_size. Received: {num_keys=}, {batch_size=}")
    anchors, keys = ops.arange(batch_size, dtype="int32"), ops.arange(num_keys, dtype="int32")
    return ops.cast(ops.equal(anchors[:, None] + first_key, keys), "float32")


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class MultiLabelContrastiveLoss(keras.losses.Loss):
    """The contrastive losses within one batch, for a training loop of your own: no queue, no key encoder.

    `loss(y_true, y_pred)` takes labels `[B, C]`, 0 or 1, and embeddings `[B, D]`, which are brought to unit length
    here. The keys of an anchor are the batch's other samples; gradient flows into both sides. An anchor without
    positives has loss 0, and the losses of the others are scaled by B / their number, so that Keras' mean over the
    batch is the mean over the anchors that have a positive.

    Args:
        positives: `"mulsupcon"` (each label of the anchor counts alike, [3]), `"any"` (keys that share a label),
            `"all"` (keys with the same labels) or `"jaccard"` (keys weighted by their Jaccard index of at least 0.5).
        temperature: τ > 0.
        name: as in `keras.losses.Loss`.
        reduction: as in `keras.losses.Loss`.
        dtype: as in `keras.losses.Loss`.

    Raises:
        InputError: an unknown kind of positives, or a temperature that is not above 0; shapes disagree when called.
    """

    def __init__(
        self,
        positives="mulsupcon",
        temperature=0.1,
        name="multi_label_contrastive_loss",
        reduction="sum_over_batch_size",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if positives not in _IN_BATCH_POSITIVES:
            raise InputError(
                f"positives must be one of {', '.join(_IN_BATCH_POSITIVES)}. Received: positives={positives!r}"
            )
        require_positive(temperature=temperature)
        self.positives = positives
        self.temperature = temperature

    def call(self, y_true, y_pred):
        """Losses `[B]` of labels `[B, C]` and embeddings `[B, D]`."""
        embeddings, labels = float_tensors(y_pred=(y_pred, "BD"), y_true=(y_true, "BC"))
        embeddings = unit_rows(embeddings)
        batch_size = ops.shape(embeddings)[0]
        others = 1.0 - ops.cast(own_key_positives(batch_size, batch_size), embeddings.dtype)
        logits = ops.matmul(embeddings / self.temperature, ops.transpose(embeddings))
        positives = _IN_BATCH_POSITIVES[self.positives](labels, labels) * others
        losses, has_positive = _losses_over_positives(logits, positives, others)
        scale = ops.cast(batch_size, losses.dtype) / ops.maximum(ops.sum(has_positive), 1.0)
        return losses * has_positive * scale

    def get_config(self):
        """Return the arguments of the constructor."""
        return {**super().get_config(), "positives": self.positives, "temperature": self.temperature}


def _mulsupcon_positives(labels, key_labels):
    """Row i weighs the keys by Σ_j w_ij y_pj / n_j, where n_j does not count the anchor, which is one of the keys."""
    counts = ops.sum(key_labels, axis=0) - labels
    weights = uniform_label_weights(ops.where(counts > 0, labels, 0.0))
    return ops.matmul(weights / ops.maximum(counts, 1.0), ops.transpose(key_labels))


_IN_BATCH_POSITIVES = {
    "mulsupcon": _mulsupcon_positives,
    "any": any_positives,
    "all": all_positives,
    "jaccard": jaccard_positives,
}


def anchor_mean(losses, anchor_weights):
    """Mean of losses `[B]` weighted by anchor weights `[B]` >= 0; a scalar, 0 when they are all 0."""
    total = ops.sum(anchor_weights)
    return ops.sum(losses * anchor_weights) / ops.where(total > 0, total, 1.0)


def _logsumexp(logits, visible):
    """Logsumexp over the keys of logits `[B, K]`; `visible`, `[K]` or `[B, K]` of 0 and 1 or None, hides the others."""
    if visible is not None:
        logits = logits + (1.0 - visible) * HIDDEN
    return ops.logsumexp(logits, axis=-1)


def _losses_over_positives(logits, positives, visible):
    """Losses `[B]` and which of them count, `[B]` of 0 and 1; positives `[B, K]` are 0 where a key is hidden."""
    mass = ops.sum(positives, axis=-1)
    attraction = ops.sum(positives * logits, axis=-1) / ops.where(mass > 0, mass, 1.0)
    return _logsumexp(logits, visible) - attraction, ops.cast(mass > 0, logits.dtype)
