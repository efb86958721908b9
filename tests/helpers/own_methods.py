"""Methods as a researcher writes them, outside of the package."""

import keras
from keras import ops

from mulsupcon_tf.losses.keys import Sum, softmax_mean, with_gradients
from mulsupcon_tf.losses.method import Method


@keras.saving.register_keras_serializable(package="mine")
class AlignAndSpread(Method):
    """Near to the keys that share a label, far from all: mean_p ‖z − k_p‖² + τ log Σ_p exp(−‖z − k_p‖² / 2τ)."""

    def of_keys(self, anchors):
        """What is gathered, a block of keys after the other: an average under a softmax, and two sums."""

        def of_block(block):
            logits = ops.matmul(anchors.embeddings, ops.transpose(block.embeddings)) / self.temperature + block.bias
            sharing = ops.cast(ops.matmul(anchors.labels, ops.transpose(block.labels)) > 0, logits.dtype)
            return {
                "keys": softmax_mean(logits, block.embeddings, ceiling=0.0),
                "number": Sum(ops.sum(sharing, axis=-1, keepdims=True)),
                "sum": Sum(ops.matmul(sharing, block.embeddings)),
            }

        return of_block

    def losses(self, anchors, gathered, whole):
        """The mean over the batch, of which these anchors may be a part."""
        z, keys = anchors.embeddings, gathered["keys"]
        mean = gathered["sum"].total / ops.maximum(gathered["number"].total, 1.0)
        spread = with_gradients(self.temperature * keys.logsumexp - 1.0, (z, keys.mean))
        loss = ops.sum(2.0 - 2.0 * ops.sum(z * mean, axis=-1) + spread) / whole.samples
        return {"loss": loss, "contrastive_loss": loss}


@keras.saving.register_keras_serializable(package="mine")
def keys_within(labels, key_labels):
    """Positives `[B, N]` whose labels are all among the anchor's."""
    number = ops.sum(key_labels, axis=-1)
    return (ops.matmul(labels, ops.transpose(key_labels)) == number) & (number > 0)
