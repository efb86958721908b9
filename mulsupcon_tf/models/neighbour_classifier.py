"""A classifier that asks the nearest training samples too."""

import keras
import numpy as np
from keras import layers, ops

from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.utils.tensors import (
    labels_of_neighbours,
    require_at_least,
    require_finite,
    require_positive,
    require_within,
    unit_rows,
    within_floor,
)


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class NeighbourClassifier(MultiLabelClassifier):
    """A `MultiLabelClassifier` whose probabilities are mixed with those of the nearest samples of a gallery.

    (1 − s) p_ij + s q'_ij, where q_ij = Σ_p a_ip y_pj over the k samples p of the gallery that are most similar to sample i
    by cosine, a_i = softmax_p(cos / τ), and q' = ε + (1 − 2ε) q. Vectors have neighbours by their representation r and by
    their standardised input, of which the mean is taken; images by r alone, unless the network makes vectors of them
    first, as a frozen backbone below a network on its features does: then these are the vectors.

    p_ij = sigmoid(x_ij / T₁ + b₁) of the logits x. A mixture takes p at its word, beside the share q, and the samples' order in it
    hangs on T₁ and b₁, as that by the logits does not: with b₁ = 0 in place of b, p has odds that are e^b times too low. Logits
    of binary cross-entropy are log-odds as they are; those of a loss that gives zero another meaning become so by
    `calibrate_network`, on validation, before anything is mixed.

    What is mixed is calibrated as a whole. That needs ε: a label that no neighbour carries has q = 0, and at s = 1 log-odds
    of −∞. Nothing finite outweighs one such label that is there after all, and the temperature that fits best would be
    infinite, which makes all decisions alike. M samples cannot tell a probability of 0 from one well below 1/M:
    `mixture_floor` takes ε = 1 / (2 (M + 1)), so that q' = (M q + 1/2) / (M + 1), the estimate of a share of M samples that
    Krichevsky and Trofimov give (1981), and log-odds stay within ±log(2M + 1). It is a straight line, not a cut: the order
    of q is that of q', and nothing that differs becomes equal.

    The gallery is a weight, so that it is saved, exported and served with the network. Logits, which a training step
    sees, are those of the network alone.

    Args:
        backbone: see `MultiLabelClassifier`.
        num_labels: C.
        gallery_size: M.
        num_neighbours: k, at most M.
        temperature: τ > 0.
        share: s, from 0 to 1.
        floor: ε, from 0 to 1/2; 0 in models of before there was one.
        network_temperature: T₁ > 0.
        network_offset: b₁.
        linear_probe: see `MultiLabelClassifier`.
        **kwargs: see `MultiLabelClassifier`.

    Raises:
        InputError: a number is out of range, or the backbone has no known shapes.
    """

    def __init__(
        self,
        backbone: keras.Model,
        num_labels: int,
        *,
        gallery_size: int,
        num_neighbours: int,
        temperature: float,
        share: float,
        floor: float = 0.0,
        network_temperature: float = 1.0,
        network_offset: float = 0.0,
        linear_probe: bool = False,
        **kwargs,
    ):
        super().__init__(backbone, num_labels, linear_probe=linear_probe, **kwargs)
        require_at_least(1, gallery_size=gallery_size)
        require_within(1, gallery_size, num_neighbours=num_neighbours)
        require_positive(temperature=temperature)
        require_within(0, 1, share=share)
        require_within(0, 0.5, floor=floor)
        self.gallery_size, self.num_neighbours = gallery_size, num_neighbours
        self.temperature, self.share, self.floor = temperature, share, floor
        self.calibrate_network(network_temperature, network_offset)
        _, on_vectors = parts_at_vectors(backbone)
        widths = [backbone.output_shape[-1]]
        if on_vectors is not None:
            widths.append(on_vectors.input_shape[-1])
        self.galleries = [
            self._constant(f"gallery_{number}", (gallery_size, width)) for number, width in enumerate(widths)
        ]
        self.gallery_labels = self._constant("gallery_labels", (gallery_size, num_labels))

    def _constant(self, name: str, shape: tuple[int, int]) -> keras.Variable:
        return self.add_weight(name=name, shape=shape, dtype="float32", initializer="zeros", trainable=False)

    def fill_gallery(self, inputs: np.ndarray | None, features: np.ndarray, labels: np.ndarray) -> None:
        """Sets the gallery.

        Args:
            inputs: `[M, F]` of vectors, be they those that the network makes of images; None of images.
            features: `[M, R]`, their representations.
            labels: `[M, C]`, 0 or 1.
        """
        _, on_vectors = parts_at_vectors(self.backbone)
        spaces = [features] if inputs is None else [features, standardised(on_vectors, inputs)]
        for gallery, rows in zip(self.galleries, spaces, strict=True):
            gallery.assign(unit_rows(ops.convert_to_tensor(rows, "float32")))
        self.gallery_labels.assign(labels)

    def calibrate_network(self, temperature: float, offset: float = 0.0) -> None:
        """Sets what makes the probabilities of the logits that are mixed; `calibrate` is of the mixture.

        Args:
            temperature: T₁ > 0, by which logits are divided.
            offset: b₁, which is added to them then.

        Raises:
            InputError: T₁ is not above 0, or b₁ is not finite.
        """
        require_positive(network_temperature=temperature)
        require_finite(network_offset=offset)
        self.network_temperature, self.network_offset = float(temperature), float(offset)

    def embed_and_classify(self, inputs) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """Mixed and calibrated probabilities `[B, C]` and representations r `[B, R]`, both float32, in inference mode."""
        return super().embed_and_classify(inputs) if self.is_calibrated else self._mixed(inputs)

    def log_odds(self, inputs) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """Those of the mixture; of 0 and 1 those of the float32 numbers next to them."""
        # No log1p, for which ONNX has no operation; 1 − m is exact above 1/2, and below it what is rounded off is below 2⁻²⁴.
        mixed, features = self._mixed(inputs)
        return ops.log(ops.maximum(mixed, 2.0**-126)) - ops.log(1.0 - ops.minimum(mixed, 1.0 - 2.0**-24)), features

    def _mixed(self, inputs):
        below, on_vectors = parts_at_vectors(self.backbone)
        vectors = inputs if below is None else below(inputs, training=False)
        features = (on_vectors or self.backbone)(vectors, training=False)
        logits, features = self.head(features), ops.cast(features, "float32")
        probabilities = ops.sigmoid(logits / self.network_temperature + self.network_offset)
        spaces = [features] if on_vectors is None else [features, standardised(on_vectors, vectors)]
        near = [self._labels_near(rows, gallery) for rows, gallery in zip(spaces, self.galleries, strict=True)]
        said = within_floor(sum(near) / len(near), self.floor)
        mixed = (1 - self.share) * probabilities + self.share * said
        return ops.minimum(mixed, 1.0), features  # not the next number above 1, which rounding may reach

    def _labels_near(self, rows, gallery):
        similarities = ops.matmul(unit_rows(rows), ops.transpose(gallery))
        cosines, nearest = ops.top_k(similarities, self.num_neighbours)
        return labels_of_neighbours(cosines, nearest, self.gallery_labels, self.temperature)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        names = (
            "gallery_size",
            "num_neighbours",
            "temperature",
            "share",
            "floor",
            "network_temperature",
            "network_offset",
        )
        return super().get_config() | {name: getattr(self, name) for name in names}


def parts_at_vectors(backbone: keras.Model) -> tuple[keras.Model | None, keras.Model | None]:
    """The part of a network that makes vectors of images and the one on these, which is the whole of a network of vectors.

    Args:
        backbone: network of vectors, or of images; of these the last layer may be a network of vectors, and one more below it.

    Returns:
        None for a part that there is not.
    """
    if len(backbone.input_shape) == 2:
        return None, backbone
    *_, below, last = backbone.layers
    if isinstance(last, keras.Model) and len(last.input_shape) == 2:
        return below, last
    return None, None


def standardised(backbone: keras.Model, inputs):
    """Vectors `[B, F]` as the network sees them, float32."""
    rows = ops.cast(inputs, "float32")
    for layer in backbone.layers:
        if isinstance(layer, layers.Normalization):
            return layer(rows)
    return rows
