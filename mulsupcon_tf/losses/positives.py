"""Contrast over positives that the labels choose: SupCon with several ways to say which keys are alike; and MoCo.

References:
    [1] Khosla et al., Supervised Contrastive Learning (SupCon), arXiv 2004.11362.
    [2] He et al., Momentum Contrast for Unsupervised Visual Representation Learning (MoCo), arXiv 1911.05722.
    [3] The public code MultiSupConLoss, which weights positives by the Jaccard index and divides by their number.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from mulsupcon_tf.losses.keys import Anchors, KeyBlock, Sum, contrast_of, weighted_contrast
from mulsupcon_tf.losses.method import Counts, Method
from mulsupcon_tf.utils.choices import TEMPERATURE
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import float_tensors


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class ContrastOfPositives(Method):
    """SupCon [1, eq. 2], L_out, with positives that count by a weight.

    L_i = −Σ_p a_ip / Σ_p a_ip · log softmax_p(z_i·k_p / τ), averaged over the anchors that have a label; one without
    positives has loss 0.

    Args:
        positives: from labels `[B, C]` and key labels `[N, C]`, 0 or 1, to the weights a `[B, N]` >= 0. It is called for a
            block of keys after the other, so the weight of a key may depend on that key and the anchor only. Registered
            by `keras.saving.register_keras_serializable`, if the model is to be saved.
        temperature: τ > 0.

    Raises:
        InputError: the temperature is not above 0, or not finite.
    """

    def __init__(self, positives: Callable[[Any, Any], Any], *, temperature: float = TEMPERATURE):
        super().__init__(temperature=temperature)
        self.positives = positives
        # Of functions of labels only that of `any` is known to ask which are shared alone.
        self.takes_unknown_labels = positives is any_positives

    def of_keys(self, anchors: Anchors) -> Callable[[KeyBlock], dict[str, Any]]:
        """Softmax mean of the keys, and for each anchor the weight and the sum of its positives."""
        contrast = contrast_of(anchors, self.temperature)

        def of_block(block: KeyBlock) -> dict[str, Any]:
            positives = ops.cast(self.positives(anchors.labels, block.labels), block.embeddings.dtype)
            # A function of one's own may take a slot of the queue without a key for a positive: it has no labels.
            visible = ops.cast(block.bias == 0, positives.dtype)[:, None]
            return {
                "contrast": contrast(block),
                "weight": Sum(ops.matmul(positives, visible)[:, 0]),
                "positives": Sum(ops.matmul(positives, visible * block.embeddings)),
            }

        return of_block

    def losses(self, anchors: Anchors, gathered: dict[str, Any], whole: Counts) -> dict[str, Any]:
        """The loss as "loss" and "contrastive_loss"."""
        contrast, weight = gathered["contrast"], gathered["weight"].total
        counted = ops.cast(ops.any(anchors.labels > 0, axis=-1) & (weight > 0), weight.dtype)
        mean = gathered["positives"].total / ops.where(weight > 0, weight, 1.0)[:, None]
        attraction = counted[:, None] * mean
        loss = weighted_contrast(anchors.embeddings, contrast, counted, attraction, self.temperature)
        loss = ops.sum(loss) / ops.maximum(whole.labelled, 1.0)
        return {"loss": loss, "contrastive_loss": loss}

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return super().get_config() | {"positives": keras.saving.serialize_keras_object(self.positives)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ContrastOfPositives":
        """Inverse of `get_config`."""
        return cls(**config | {"positives": keras.saving.deserialize_keras_object(config["positives"])})


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class OwnKey(Method):
    """MoCo [2, eq. 1]: the only positive of an anchor is its own other view, and no label is read: method `self`.

    L_i = −log softmax_i(z_i·k / τ), over all keys, averaged over the anchors.

    Args:
        temperature: τ > 0.

    Raises:
        InputError: the temperature is not above 0, or not finite.
    """

    takes_unknown_labels = True

    def of_keys(self, anchors: Anchors) -> Callable[[KeyBlock], dict[str, Any]]:
        """Softmax mean of the keys."""
        contrast = contrast_of(anchors, self.temperature)
        return lambda block: {"contrast": contrast(block)}

    def losses(self, anchors: Anchors, gathered: dict[str, Any], whole: Counts) -> dict[str, Any]:
        """The loss as "loss" and "contrastive_loss"."""
        every = ops.ones_like(anchors.labels[:, 0])
        loss = weighted_contrast(anchors.embeddings, gathered["contrast"], every, anchors.own_keys, self.temperature)
        loss = ops.sum(loss) / whole.samples
        return {"loss": loss, "contrastive_loss": loss}


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
def any_positives(labels, key_labels):
    """Positives that share at least one label with the anchor: method `any`.

    Args:
        labels: `[B, C]`, 0 or 1.
        key_labels: `[K, C]`, 0 or 1.

    Returns:
        `[B, K]` of 0 and 1, float32 (float64 for float64 labels).

    Raises:
        InputError: shapes disagree.
    """
    labels, key_labels = float_tensors(labels=(labels, "BC"), key_labels=(key_labels, "KC"))
    # The count of shared labels is a whole number, so the clip is the test for at least one.
    return ops.minimum(ops.matmul(labels, ops.transpose(key_labels)), 1.0)


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
def all_positives(labels, key_labels):
    """Positives that have exactly the anchor's labels: method `all`; an anchor without labels has none.

    Args:
        labels: `[B, C]`, 0 or 1.
        key_labels: `[K, C]`, 0 or 1.

    Returns:
        `[B, K]` of 0 and 1, float32 (float64 for float64 labels).

    Raises:
        InputError: shapes disagree.
    """
    # Two sets are equal when their Jaccard index is 1, and the quotient of equal whole numbers is exactly 1.
    return jaccard_positives(labels, key_labels, minimum=1.0)


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
def jaccard_positives(labels, key_labels, *, minimum=0.5):
    """Positives weighted by the Jaccard index of the two label sets, 0 where it is below the minimum: method `jaccard`.

    The loss divides by the sum of the weights, where [3] divides by the number of positives.

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
