"""Sums over the keys that share a label with an anchor, of which (7) of `mulsupconld` is made."""

from typing import Any, NamedTuple

from keras import ops

from mulsupcon_tf.losses.keys import KeyBlock
from mulsupcon_tf.losses.positives import any_positives


class SharingKeys(NamedTuple):
    """Of some anchors, which of some keys share a label, and how far their distributions are.

    Attributes:
        sharing: s `[B, N]`, 1 where a label is shared.
        distances: ‖d_i − d_p‖² `[B, N]`, of all keys.
        values: `[N, C + 2]`: 1, d_p and |d_p|².
    """

    sharing: Any
    distances: Any
    values: Any

    @classmethod
    def of(cls, labels, sides, block: KeyBlock) -> "SharingKeys":
        """Of anchors with labels `[B, C]` and sides `[B, C + 2]`, see `sides_of`."""
        squares = ops.sum(ops.square(block.distributions), axis=-1, keepdims=True)
        values = ops.concatenate([ops.ones_like(squares), block.distributions, squares], axis=-1)
        return cls(any_positives(labels, block.labels), ops.matmul(sides, ops.transpose(values)), values)

    def sums(self, weights, block: KeyBlock) -> list[Any]:
        """By weights w `[B, N]`: Σ_p w s (1, d_p, |d_p|²) `[B, C + 2]`, for `similarity_of`, Σ_p w s ‖d_i − d_p‖² k_p `[B, D]`."""
        near = weights * self.sharing
        return [ops.matmul(near, self.values), ops.matmul(near * self.distances, block.embeddings)]


def sides_of(distributions):
    """Of the anchors' d `[B, C]` what times `SharingKeys.values` is ‖d_i − d_p‖², `[B, C + 2]`: |d_i|², −2 d_i and 1."""
    squares = ops.sum(ops.square(distributions), axis=-1, keepdims=True)
    return ops.concatenate([squares, -2.0 * distributions, ops.ones_like(squares)], axis=-1)


def similarity_of(sums, distributions):
    """Σ_p w s ‖d_i − d_p‖² `[B, 1]`, and its gradient by d_i `[B, C]`, of the sums of (1, d_p, |d_p|²) by w s `[B, C + 2]`."""
    weight, mean, square = ops.split(sums, (1, 1 + distributions.shape[-1]), axis=-1)
    half = weight * distributions - mean
    return ops.sum(distributions * (half - mean), axis=-1, keepdims=True) + square, 2.0 * half
