"""The part of a classifier that has no strings in it: what formats without an image decoder can hold."""

import tensorflow as tf

from mulsupcon_tf.models.classifier import MultiLabelClassifier

OUTPUT_NAMES = ("probabilities", "embedding")


def numeric_function(model: MultiLabelClassifier) -> tf.types.experimental.ConcreteFunction:
    """The function of one input, `[N, ...]` float32, to `probabilities` `[N, C]` and `embedding` `[N, R]`, float32.

    The input is `features` `[N, F]`, as the SavedModel takes them, or `images` `[N, H, W, channels]`: pixel values from
    0 to 255, in the size that the network sees. Standardising them is part of the model.
    """
    shape = tuple(model.backbone.input_shape[1:])
    spec = tf.TensorSpec((None, *shape), tf.float32, name="features" if len(shape) == 1 else "images")

    def classify(samples: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(zip(OUTPUT_NAMES, model.embed_and_classify(samples), strict=True))

    return tf.function(classify, input_signature=[spec]).get_concrete_function()
