"""What a loss needs to know of the keys, gathered block by block, so that no more than a block is at hand at a time.

Every loss of this package depends on the keys through a logsumexp, a mean under a softmax or a sum. Those of two blocks
of keys join into those of both, so one pass over the keys gives the losses, and their gradients too, which are such
means and sums themselves. Nothing here is differentiated through: `with_gradients` gives a value its gradients.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

# Added to the logit of a key that must not be seen. Finite, so that a row in which every key is hidden has a finite
# logsumexp and a zero, not a NaN, gradient.
HIDDEN = -1e9
FurtherSums = Callable[[Any], list[Any]]  # see `softmax_mean`


class KeyBlock(NamedTuple):
    """Some of the keys; no gradient flows into them.

    Attributes:
        embeddings: `[N, D]` unit rows.
        labels: `[N, C]`, 0 or 1; 0 for a hidden key.
        distributions: `[N, C]`, rows sum to 1; of no meaning to a method without distributions.
        bias: `[N]`, what is added to a key's logits: 0, or `HIDDEN` for a slot of the queue that holds no key yet.
    """

    embeddings: Any
    labels: Any
    distributions: Any
    bias: Any


class Anchors(NamedTuple):
    """The query side of some samples, and what else a loss needs of them.

    Attributes:
        embeddings: z `[N, D]` unit rows.
        labels: y `[N, C]`, 0 or 1.
        own_keys: `[N, D]`, the keys of the anchors themselves; no gradient flows into them.
        distributions: d `[N, C]`, rows sum to 1; None for a method without distributions.
        kernel: W `[R, C]` of the layer that made the distributions, or None.
    """

    embeddings: Any
    labels: Any
    own_keys: Any
    distributions: Any = None
    kernel: Any = None


class SoftmaxMean(NamedTuple):
    """Values averaged over the keys under a softmax.

    Attributes:
        logsumexp: `[B]` of the logits.
        mean: `[B, W]`, Σ_p softmax_p(l_ip) v_ip.
    """

    logsumexp: Any
    mean: Any

    def join(self, other: "SoftmaxMean") -> "SoftmaxMean":
        """The same over the keys of both."""
        # Not exp(logsumexp − that of both): a difference of large numbers, whose shares are not 1 together.
        share = ops.sigmoid(self.logsumexp - other.logsumexp)[:, None]
        mean = share * self.mean + (1.0 - share) * other.mean
        return SoftmaxMean(ops.logaddexp(self.logsumexp, other.logsumexp), mean)


class Sum(NamedTuple):
    """Something added up over the keys, `[B, ...]` for each anchor or `[C, ...]` for each label.

    Attributes:
        total: the sum.
    """

    total: Any

    def join(self, other: "Sum") -> "Sum":
        """The same over the keys of both."""
        return Sum(self.total + other.total)


def join(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """What was gathered by name, over the keys of both."""
    return {name: first[name].join(second[name]) for name in first}


def ceiling_of_cosines(temperature: float) -> float:
    """What no cosine over a temperature exceeds: 1 / τ; 0 where exp(−2 / τ), of opposite rows, is lost in float32."""
    return 1.0 / temperature if temperature >= 0.05 else 0.0


def logits_of(scaled, block: KeyBlock, ceiling: float):
    """`[B, N]` z_i·k_p / τ minus the ceiling, hidden keys far below; `scaled` `[B, D]` is z / τ."""
    return ops.matmul(scaled, ops.transpose(block.embeddings)) + (block.bias - ceiling)


def softmax_mean(logits, values, *, ceiling: float, further_sums: FurtherSums | None = None) -> SoftmaxMean:
    """Under the softmax of the logits over the keys, of values of the keys and of (anchor, key) pairs.

    Args:
        logits: `[B, N]`, the ceiling already taken from them.
        values: `[N, W]`, of the keys.
        ceiling: what has been taken from all logits so that none is above 0; one key at least must then be visible, else
            all odds are 0. When 0 the highest of each row is found and taken away, which are two passes over the logits.
        further_sums: from the odds `[B, N]`, to which the softmax is proportional, to sums over the keys by them `[B, V]`,
            whose means follow in further columns.

    Returns:
        Means of `[B, W + ...]`.
    """
    highest = ceiling
    if not ceiling:
        highest = ops.max(logits, axis=-1, keepdims=True)
        logits = logits - highest
    odds = ops.exp(logits)
    total = ops.sum(odds, axis=-1, keepdims=True)
    sums = [ops.matmul(odds, values), *(further_sums(odds) if further_sums else ())]
    return SoftmaxMean((highest + ops.log(total))[:, 0], ops.concatenate(sums, axis=-1) / total)


def contrast_of(anchors: Anchors, temperature: float) -> Callable[[KeyBlock], SoftmaxMean]:
    """From some keys to their mean under z_i·k_p / τ, to which no gradient flows."""
    scaled, ceiling = ops.stop_gradient(anchors.embeddings) / temperature, ceiling_of_cosines(temperature)
    return lambda block: softmax_mean(logits_of(scaled, block, ceiling), block.embeddings, ceiling=ceiling)


def weighted_contrast(embeddings, contrast: SoftmaxMean, mass, attraction, temperature: float):
    """−Σ_p w_ip log softmax_p(z_i·k_p / τ) `[N]` for weights of the keys w, with its gradient by z.

    Args:
        embeddings: z `[N, D]`.
        contrast: of all keys k under z·k / τ; columns after the first D are not read.
        mass: `[N]`, Σ_p w_ip.
        attraction: `[N, D]`, Σ_p w_ip k_p.
        temperature: τ.
    """
    mean_key = contrast.mean[:, : embeddings.shape[-1]]
    value = mass * contrast.logsumexp - ops.sum(embeddings * attraction, axis=-1) / temperature
    return with_gradients(value, (embeddings, (mass[:, None] * mean_key - attraction) / temperature))


def with_gradients(value, *gradients):
    """A value that was computed without gradients, with them: the sum over rows is exact, as is its first derivative.

    Args:
        value: `[B]`.
        *gradients: pairs of a differentiable tensor `[B, W]` and the gradient `[B, W]` of each row's value by it.

    Returns:
        `[B]`.
    """
    value = ops.stop_gradient(value)
    for variable, gradient in gradients:
        change = variable - ops.stop_gradient(variable)  # 0, but not its gradient
        value = value + ops.sum(ops.stop_gradient(gradient) * change, axis=-1)
    return value
