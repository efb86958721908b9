"""What the losses need to know of the keys, gathered block by block, so that no more than a block is at hand at a time.

Every loss depends on the keys through a logsumexp, a mean or a sum over them. Those of two blocks of keys join into
those of both, so one pass over the keys gives the losses, and the gradients too: the gradient of a logsumexp is the mean
of the keys under the softmax, which the same pass collects. Nothing here is differentiated through.
"""

from typing import Any, NamedTuple

from keras import ops


class KeyBlock(NamedTuple):
    """Some of the keys.

    Attributes:
        embeddings: `[N, D]` unit rows.
        labels: `[N, C]`, 0 or 1; 0 for a hidden key.
        distributions: `[N, C]`.
        bias: `[N]`, what is added to a key's logits: 0, or `losses.HIDDEN` for a slot that holds no key yet.
    """

    embeddings: Any
    labels: Any
    distributions: Any
    bias: Any


class SoftmaxMean(NamedTuple):
    """Values of the keys averaged under a softmax.

    Attributes:
        logsumexp: `[B]` of the logits.
        mean: `[B, W]`, Σ_p softmax_p(l_ip) v_p.
    """

    logsumexp: Any
    mean: Any

    def join(self, other: "SoftmaxMean") -> "SoftmaxMean":
        """The same over the keys of both."""
        both = ops.logaddexp(self.logsumexp, other.logsumexp)
        shares = (ops.exp(each.logsumexp - both)[:, None] for each in (self, other))
        return SoftmaxMean(both, sum(share * each.mean for share, each in zip(shares, (self, other), strict=True)))

    def differentiable(self, logit_rows):
        """The logsumexp `[B]` of the logits x_i·v_p, with its gradient with respect to the rows x `[B, W]`."""
        gradient = ops.stop_gradient(self.mean)
        change = ops.sum(gradient * (logit_rows - ops.stop_gradient(logit_rows)), axis=-1)  # 0, but not its gradient
        return ops.stop_gradient(self.logsumexp) + change


class Sums(NamedTuple):
    """Values of the keys added up by weight: over the positives of an anchor, or over the carriers of a label.

    Attributes:
        weight: `[M]`, Σ_p a_mp.
        total: `[M, W]`, Σ_p a_mp v_p.
    """

    weight: Any
    total: Any

    def join(self, other: "Sums") -> "Sums":
        """The same over the keys of both."""
        return Sums(self.weight + other.weight, self.total + other.total)

    def mean(self):
        """`[M, W]`; a row of zeros where the weights are all 0."""
        return self.total / ops.where(self.weight > 0, self.weight, 1.0)[:, None]


def ceiling_of_cosines(temperature: float) -> float:
    """What no cosine over a temperature exceeds: 1 / τ; 0 where exp(−2 / τ), of opposite rows, is lost in float32."""
    return 1.0 / temperature if temperature >= 0.05 else 0.0


def softmax_mean(logits, values, *, lowered: float = 0.0) -> SoftmaxMean:
    """Of logits and values, under the softmax of the logits.

    Args:
        logits: `[B, N]`.
        values: `[N, W]`.
        lowered: what has been taken from all logits so that none is above 0; one key at least must then be visible, else
            all odds are 0. When 0 the highest of each row is found and taken from it, which are two passes over the logits.
    """
    highest = lowered
    if not lowered:
        highest = ops.max(logits, axis=-1, keepdims=True)
        logits = logits - highest
    odds = ops.exp(logits)
    total = ops.sum(odds, axis=-1, keepdims=True)
    return SoftmaxMean((highest + ops.log(total))[:, 0], ops.matmul(odds, values) / total)


def positive_sums(positives, values) -> Sums:
    """Over the keys, for each anchor, of positives `[B, N]` and values `[N, W]`."""
    return Sums(ops.sum(positives, axis=-1), ops.matmul(positives, values))


def label_sums(labels, values) -> Sums:
    """Over the keys, for each label, of labels or label weights `[N, C]` and values `[N, W]`."""
    return Sums(ops.sum(labels, axis=0), ops.matmul(ops.transpose(labels), values))


def join(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Statistics by name, over the keys of both."""
    return {name: first[name].join(second[name]) for name in first}
