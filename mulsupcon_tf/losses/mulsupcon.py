"""MulSupCon: every label of an anchor has its own positives, and all labels count the same.

References:
    [1] Zhang and Wu, Multi-Label Supervised Contrastive Learning (MulSupCon), AAAI 2024; (3, 4) of arXiv 2501.19145v1.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from mulsupcon_tf.losses.keys import Anchors, KeyBlock, Sum, contrast_of, weighted_contrast
from mulsupcon_tf.losses.method import Counts, Method
from mulsupcon_tf.utils.choices import AVERAGES, TEMPERATURE
from mulsupcon_tf.utils.tensors import require_choice


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class MulSupCon(Method):
    """L_i = Σ_{j∈y_i} −1/|P_j(i)| Σ_{p∈P_j(i)} log softmax_p(z_i·k_p / τ): method `mulsupcon`.

    P_j(i) are the keys that carry label j. The published code expands an anchor to one row per label, which is the same
    loss at |y_i| times the work.

    Args:
        temperature: τ > 0.
        average: "pair" as published [1], Σ_i L_i / Σ_i |y_i|, the mean over all (anchor, label) pairs; or "anchor", the
            mean of L_i / |y_i| over the anchors that have a label.

    Raises:
        InputError: the temperature is not above 0, or the average has another name.
    """

    def __init__(self, *, temperature: float = TEMPERATURE, average: str = AVERAGES[0]):
        super().__init__(temperature=temperature)
        require_choice(AVERAGES, average=average)
        self.average = average

    def of_keys(self, anchors: Anchors) -> Callable[[KeyBlock], dict[str, Any]]:
        """Softmax mean of the keys, and by label the number and the sum of the keys that carry it."""
        contrast = contrast_of(anchors, self.temperature)

        def of_block(block: KeyBlock) -> dict[str, Any]:
            carried = ops.transpose(block.labels)
            return {
                "contrast": contrast(block),
                "carried": Sum(ops.sum(carried, axis=-1)),
                "carriers": Sum(ops.matmul(carried, block.embeddings)),
            }

        return of_block

    def losses(self, anchors: Anchors, gathered: dict[str, Any], whole: Counts) -> dict[str, Any]:
        """The loss as "loss" and "contrastive_loss"."""
        contrast, number = gathered["contrast"], gathered["carried"].total
        means = gathered["carriers"].total / ops.maximum(number, 1.0)[:, None]
        weights = anchors.labels
        if self.average == "anchor":
            weights = weights / ops.maximum(ops.sum(weights, axis=-1, keepdims=True), 1.0)
        mass = ops.sum(weights, axis=-1)
        attraction = ops.matmul(weights, means)
        total = ops.sum(weighted_contrast(anchors.embeddings, contrast, mass, attraction, self.temperature))
        loss = total / ops.maximum(whole.pairs if self.average == "pair" else whole.labelled, 1.0)
        return {"loss": loss, "contrastive_loss": loss}

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return super().get_config() | {"average": self.average}
