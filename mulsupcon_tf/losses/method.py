"""What a contrastive method is: an object that says what it needs of the keys and makes the losses of that.

A method of one's own subclasses `Method`; one that only chooses positives by labels is a function, of which
`positives.ContrastOfPositives` makes a method.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from mulsupcon_tf.losses.keys import HIDDEN, Anchors, KeyBlock
from mulsupcon_tf.utils.choices import TEMPERATURE
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import float_tensors, require_positive


class Counts(NamedTuple):
    """What the means of a batch run over.

    An anchor's loss depends on the other anchors only through such a count. So the loss of a batch is the sum over its
    parts, on one device or on several, of their losses, each divided by the counts of the whole.

    Attributes:
        samples: B, scalar.
        labelled: anchors that have a label, scalar.
        by_label: anchors of each label, `[C]`.
    """

    samples: Any
    labelled: Any
    by_label: Any

    @property
    def pairs(self):
        """(Anchor, label) pairs, scalar."""
        return ops.sum(self.by_label)


def count(labels) -> Counts:
    """The counts of a batch with labels `[B, C]`, 0 or 1."""
    return Counts(
        samples=ops.cast(ops.shape(labels)[0], labels.dtype),
        labelled=ops.sum(ops.cast(ops.any(labels > 0, axis=-1), labels.dtype)),
        by_label=ops.sum(labels, axis=0),
    )


def presence(labels):
    """Logical labels `[B, C]` float32 of labels, or of label distributions: 1 where there is something of a label."""
    return ops.cast(ops.cast(labels, "float32") > 0, "float32")


class Method(abc.ABC):
    """A contrastive loss over a batch of anchors and the keys that they are compared with.

    Args:
        temperature: τ > 0.

    Attributes:
        learns_distributions: whether label distributions are learnt, by a layer on r.
        takes_true_distributions: whether true label distributions stand in place of the labels in what `fit` gets.
        parts: names of the losses beside "contrastive_loss" that `losses` returns.

    Raises:
        InputError: the temperature is not above 0, or not finite.
    """

    learns_distributions = False
    takes_true_distributions = False
    parts: tuple[str, ...] = ()

    def __init__(self, *, temperature: float = TEMPERATURE):
        require_positive(temperature=temperature)
        self.temperature = temperature

    @property
    def uses_distributions(self) -> bool:
        """Whether keys are queued with label distributions."""
        return self.learns_distributions or self.takes_true_distributions

    @abc.abstractmethod
    def of_keys(self, anchors: Anchors) -> Callable[[KeyBlock], dict[str, Any]]:
        """What `losses` needs to know of the keys.

        Args:
            anchors: the anchors; no gradient flows through what is gathered.

        Returns:
            A function from some keys to `SoftmaxMean` and `Sum` objects by name, which are joined over the blocks.
        """

    @abc.abstractmethod
    def losses(self, anchors: Anchors, gathered: dict[str, Any], whole: Counts) -> dict[str, Any]:
        """What these anchors add to the losses of a batch.

        Args:
            anchors: the anchors.
            gathered: `of_keys` of all keys.
            whole: the counts of the whole batch.

        Returns:
            Scalars by name: "loss", which is to be minimised, "contrastive_loss", and those named by `parts`.
        """

    def positives_per_anchor(self, gathered: dict[str, Any], whole: Counts):
        """The mean over the batch of the summed weights of an anchor's positives; 1 for losses that divide by that sum.

        Args:
            gathered: `of_keys` of all keys.
            whole: the counts of the whole batch.

        Returns:
            Scalar; no gradient flows through it.
        """
        del gathered, whole
        return 1.0

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"temperature": self.temperature}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Method":
        """Inverse of `get_config`."""
        return cls(**config)


def losses_on_arrays(
    method: Method,
    queries,
    keys,
    labels,
    key_labels,
    *,
    distributions=None,
    key_distributions=None,
    kernel=None,
    key_mask=None,
) -> dict[str, Any]:
    """The losses of a method on whole arrays: the form that is trained, with all keys in one block.

    Args:
        method: the method.
        queries: `[B, D]` unit rows.
        keys: `[K, D]` unit rows, K >= B; key i < B is that of anchor i itself. No gradient flows into them.
        labels: `[B, C]`, 0 or 1.
        key_labels: `[K, C]`, 0 or 1.
        distributions: `[B, C]`, rows sum to 1, for a method with distributions.
        key_distributions: `[K, C]`, likewise; no gradient flows into them.
        kernel: W `[R, C]` of the layer that made the distributions, for the penalty of its norm.
        key_mask: `[K]`, 0 for slots of a queue that are not filled yet.

    Returns:
        Scalars by name, float32 (float64 for float64 queries); "loss" is the one to minimise.

    Raises:
        InputError: shapes disagree, there are fewer keys than anchors, or distributions are missing that the method uses.
    """
    if method.uses_distributions and (distributions is None or key_distributions is None):
        raise InputError(
            "distributions and key_distributions must be given to a method that uses them. "
            f"Received: method={type(method).__name__} without"
        )
    queries, keys, labels, key_labels, distributions, key_distributions, key_mask = float_tensors(
        queries=(queries, "BD"),
        keys=(keys, "KD"),
        labels=(labels, "BC"),
        key_labels=(key_labels, "KC"),
        distributions=(distributions, "BC"),
        key_distributions=(key_distributions, "KC"),
        key_mask=(key_mask, "K"),
    )
    num_anchors, num_keys = queries.shape[0], keys.shape[0]  # None where they are unknown while tracing
    if num_anchors is not None and num_keys is not None and num_keys < num_anchors:
        raise InputError(
            "keys must be at least as many as queries, of which each has a key of its own. "
            f"Received: {num_keys} keys of {num_anchors} queries"
        )
    visible = ops.ones_like(keys[:, 0]) if key_mask is None else key_mask
    key_distributions = ops.zeros_like(key_labels) if key_distributions is None else key_distributions
    keys, key_distributions = ops.stop_gradient(keys), ops.stop_gradient(key_distributions)
    block = KeyBlock(keys, key_labels * visible[:, None], key_distributions, (1.0 - visible) * HIDDEN)
    anchors = Anchors(queries, labels, keys[: ops.shape(queries)[0]], distributions, kernel)
    return method.losses(anchors, method.of_keys(anchors)(block), count(labels))
