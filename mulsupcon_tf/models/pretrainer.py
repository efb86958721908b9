"""Contrastive pretraining of multi-label data in a momentum-contrast framework.

References:
    [1] Chen et al., Improving Multi-Label Contrastive Learning by Leveraging Label Distribution, arXiv 2501.19145v1.
    [2] He et al., Momentum Contrast for Unsupervised Visual Representation Learning (MoCo), arXiv 1911.05722.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from mulsupcon_tf.losses.diagnostics import DIAGNOSTICS, OF_DISTRIBUTIONS, diagnostics, diagnostics_of_distributions
from mulsupcon_tf.losses.keys import Anchors
from mulsupcon_tf.losses.method import Method, presence
from mulsupcon_tf.losses.registry import build_method
from mulsupcon_tf.models.gradient_accumulation import accumulate_gradients, rows_in_parts, slice_rows
from mulsupcon_tf.models.guarded_model import RunningMeans
from mulsupcon_tf.models.heads import QuerySide, build_label_layer, encoded_by, require_networks
from mulsupcon_tf.models.key_encoder import ModelWithKeyEncoder, follow, require_whole_precision
from mulsupcon_tf.models.key_queue import CandidateKeys, KeyBatch, KeyQueue, gather_key_batch
from mulsupcon_tf.models.layers import PostponedMoves, penalties, postponed_moves
from mulsupcon_tf.models.replicas import gather_rows, sum_by_name
from mulsupcon_tf.utils.choices import MOMENTUM
from mulsupcon_tf.utils.private_apis import less_is_better
from mulsupcon_tf.utils.tensors import require_at_least, require_not_negative, require_within, softmax


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class ContrastivePretrainer(ModelWithKeyEncoder):
    """Query encoder, key encoder and queue [2], trained by a contrastive method [1, algorithm 1].

    `fit` takes a dataset of `((view_1, view_2), labels)`: two augmented views `[B, ...]` and labels `[B, C]`, 0 or 1;
    for a method that takes true distributions, these in place of labels: above 0 on the labels that a sample has and 0
    elsewhere. What is queued for a sample is its key, its labels and the distribution that the query side gave it.

    Args:
        backbone: model from a sample to its representation r `[B, R]`; its regularisers and `add_loss` add to the loss.
        projection_head: model from r to the embedding before normalisation `[B, D]`; so do its own.
        num_labels: C, at least 1.
        method: a `Method`; or what `build_method` makes one of, with default settings: a name, or a function from labels
            `[B, C]` and key labels `[N, C]` to how much each key counts as a positive `[B, N]`.
        queue_size: Q, at least 1.
        momentum: m of the key encoder, from 0 to 1; or a schedule: a callable from the step to such a number.
        bce_weight: weight of binary cross-entropy, summed over labels, on a linear layer on r; 0 leaves it out. Beside
            it a loss that is a sum over positives is divided by how many they are.
        contrastive_weight: weight of the method's loss; a schedule can hold it back at first.
        gradient_accumulation_steps: A, parts into which a batch is cut to fit a small device; B must be a multiple of A.
            All B keys are made first and are the candidates of every part; gradients of the parts are summed for one step.
            Apart from batch normalisation, whose statistics are those of a part, and dropout, a step is the undivided one.
            A method that learns distributions passes each part through the query encoder twice.
        **kwargs: as for `keras.Model`.

    Raises:
        InputError: the method is unknown, a number is out of range, or a network's shapes are not known or its weights are
            in half precision.
    """

    def __init__(
        self,
        backbone: keras.Model,
        projection_head: keras.Model,
        num_labels: int,
        *,
        method: str | Method | Callable[[Any, Any], Any] = "cld",
        queue_size: int = 1024,
        momentum: float | Callable = MOMENTUM,
        bce_weight: float = 0.0,
        contrastive_weight: float | Callable = 1.0,
        gradient_accumulation_steps: int = 1,
        **kwargs,
    ):
        # Raw input may lie beyond float16: the backbone standardises it in float32 before its own precision applies.
        super().__init__(autocast=False, **kwargs)
        require_at_least(1, num_labels=num_labels, queue_size=queue_size)
        require_at_least(1, gradient_accumulation_steps=gradient_accumulation_steps)
        require_within(0, 1, momentum=0 if callable(momentum) else momentum)
        require_not_negative(bce_weight=bce_weight)
        require_not_negative(contrastive_weight=0 if callable(contrastive_weight) else contrastive_weight)
        require_networks(backbone=backbone, projection_head=projection_head)
        require_whole_precision([backbone, projection_head])
        self.method = build_method(method)
        self.momentum, self.contrastive_weight, self.bce_weight = momentum, contrastive_weight, bce_weight
        self.num_labels, self.num_parts = num_labels, gradient_accumulation_steps

        self.backbone, self.projection_head = backbone, projection_head
        num_features = backbone.output_shape[-1]
        if self.method.learns_distributions:
            self.distribution_layer = build_label_layer(num_features, num_labels, "distribution_layer")
        if bce_weight:
            self.classification_layer = build_label_layer(num_features, num_labels, "classification_layer")
        self._add_key_side(backbone, projection_head)
        width, keeps = projection_head.output_shape[-1], self.method.uses_distributions
        self.queue = KeyQueue(queue_size, width, num_labels, keeps_distributions=keeps, name="queue")
        self.step = self.add_weight(name="step", shape=(), dtype="int64", initializer="zeros", trainable=False)
        names = ["loss", "contrastive_loss", *self.method.parts, "positives", "log_num_keys"]
        names += [*DIAGNOSTICS, "key_momentum"]
        names += OF_DISTRIBUTIONS if self.method.learns_distributions else []
        names += ["bce_loss"] if bce_weight else []
        self._means = RunningMeans(names)
        self._falling = less_is_better(self._means.losses_among_them)
        self.built = True

    @property
    def metrics(self) -> list:
        """Running means of the loss parts and diagnostics; reset by Keras at each epoch."""
        return [self._means, self._bad_steps_of_epoch, self._falling]

    def call(self, inputs, training=False):
        """Encodes samples by the query encoder.

        Args:
            inputs: `[B, ...]`, as the backbone takes them.
            training: whether dropout and batch normalisation act as in training.

        Returns:
            A dict of `features` r `[B, R]`, `embedding` z `[B, D]` (unit rows) and, where the method learns them,
            `distribution` d `[B, C]`, float32.
        """
        encoded = self.encode_queries(inputs, training=training)
        outputs = {"features": ops.cast(encoded.features, "float32"), "embedding": encoded.embeddings}
        return outputs if encoded.distributions is None else outputs | {"distribution": encoded.distributions}

    @property
    def label_layer(self) -> keras.layers.Dense | None:
        """The linear layer on r that a classifier can go on with: that of binary cross-entropy, else of distributions."""
        if self.bce_weight:
            return self.classification_layer
        return self.distribution_layer if self.method.learns_distributions else None

    def encode_queries(self, inputs, training=True) -> QuerySide:
        """What the query encoder makes of samples, for a training step of your own.

        Args:
            inputs: `[N, ...]`, as the backbone takes them.
            training: whether dropout and batch normalisation act as in training.

        Returns:
            `features` r `[N, R]`, `embeddings` z `[N, D]` and, where learnt, `distributions` d `[N, C]`, else None.
        """
        features, embeddings = encoded_by(self.backbone, self.projection_head, inputs, training=training)
        learns = self.method.learns_distributions
        return QuerySide(features, embeddings, softmax(self.distribution_layer(features)) if learns else None)

    def losses_of(self, encoded: QuerySide, labels, candidates: CandidateKeys, *, first_key=0) -> dict[str, tf.Tensor]:
        """What some anchors of a batch add to every loss of it.

        Args:
            encoded: the query side of the anchors.
            labels: `[N, C]` as `fit` gets them.
            candidates: the keys of the whole batch, and the queue.
            first_key: the row of the batch's keys that is the first anchor's own; those of the others follow.

        Returns:
            Scalars by name, which summed over the parts of a batch are its losses; "loss" is the one to minimise.
        """
        present, whole = presence(labels), candidates.batch.counts
        share = tf.cast(tf.shape(present)[0], tf.float32) / whole.samples
        anchors = Anchors(
            encoded.embeddings,
            present,
            slice_rows(candidates.batch.keys, first_key, tf.shape(present)[0]),
            ops.cast(labels, "float32") if self.method.takes_true_distributions else encoded.distributions,
            self.distribution_layer.kernel if self.method.learns_distributions else None,
        )
        gathered = candidates.statistics(self.method.of_keys(anchors))
        losses = self.method.losses(anchors, gathered, whole)
        positives = self.method.positives_per_anchor(gathered, whole)
        terms = [self._scheduled(self.contrastive_weight) * losses["loss"]]
        losses["positives"] = positives * share
        losses["log_num_keys"] = tf.math.log(candidates.number()) * share
        if self.method.learns_distributions:
            losses |= diagnostics_of_distributions(encoded.distributions, present, whole)
        if self.bce_weight:
            per_label = tf.nn.sigmoid_cross_entropy_with_logits(present, self.classification_layer(encoded.features))
            losses["bce_loss"] = tf.reduce_mean(per_label) * share
            # The sum over labels: the contrastive loss too is a sum over the labels of an anchor, not a mean over all C.
            summed = tf.reduce_mean(tf.reduce_sum(per_label, axis=-1)) * share
            terms = [tf.math.divide_no_nan(terms[0], positives), self.bce_weight * summed]
        terms += [penalty * share for penalty in penalties(self._query_side)]
        # No chain of additions: TensorFlow's optimizer of graphs orders one anew at each start, which moves the last bit.
        return losses | {"loss": tf.reduce_sum(tf.stack(terms)) if len(terms) > 1 else terms[0]}

    def train_step(self, data):
        """One step: keys, loss, optimizer, key encoder, queue. Everything stays on the device.

        Args:
            data: `((view_1, view_2), labels)`, as `fit` reads them.

        Returns:
            The running means of the epoch by name, scalars float32.

        Raises:
            InputError: the data are not of this form, or have weights of samples.
        """
        (query_view, key_view), labels = self.views_and_labels(data)
        before = self.read_forward_state()
        if self.num_parts == 1:
            with postponed_moves() as moves, tf.GradientTape() as tape:
                losses, queries, batch = self._losses_of_batch(query_view, self.encode_keys(key_view), labels)
                loss = self.optimizer.scale_loss(losses["loss"])
            gradients = tape.gradient(loss, self.trainable_variables)
        else:
            moves = PostponedMoves()  # none: each part moves the statistics
            losses, queries, gradients, batch = self._step_in_parts(query_view, key_view, labels, before)
        losses = self._totals(losses, queries, batch.keys)
        rows = batch.rows()
        others = [losses["loss"], *rows]
        self.finish_step(before, gradients, others, self._follow_and_enqueue, (rows, losses), moves=moves)
        return self.get_metrics_result()

    def _losses_of_batch(self, query_view, keys, labels, training=True):
        """Losses, queries and key side of a batch whose keys `[b, D]` are known."""
        encoded = self.encode_queries(query_view, training=training)
        batch = self._key_batch(keys, labels, encoded.distributions)
        losses = self.losses_of(encoded, labels, CandidateKeys(batch, self.queue), first_key=batch.first)
        return losses, encoded.embeddings, batch

    def _key_batch(self, keys, labels, distributions) -> KeyBatch:
        """The key side of a batch: keys `[b, D]`, labels `[b, C]` as `fit` gets them, distributions `[b, C]` or None."""
        if self.method.takes_true_distributions:
            distributions = ops.cast(labels, "float32")
        return gather_key_batch(keys, presence(labels), distributions)

    def _step_in_parts(self, query_view, key_view, labels, before):
        """Losses, queries, gradients and key side of a batch, whose activations are held for one part at a time."""
        distributions, width = None, self.queue.embedding_size
        if self.method.learns_distributions:
            distributions = rows_in_parts(
                lambda part: self.encode_queries(part).distributions, query_view, self.num_parts, self.num_labels
            )
            # Undone, so that statistics move once, and dropout draws in the second pass what it drew in this one.
            self.write_forward_state(before)
        keys = rows_in_parts(self.encode_keys, key_view, self.num_parts, width)
        batch = self._key_batch(keys, labels, distributions)
        candidates = CandidateKeys(batch, self.queue)

        def losses_of_part(first, part_view, part_labels):
            encoded = self.encode_queries(part_view)
            return self.losses_of(encoded, part_labels, candidates, first_key=batch.first + first), encoded.embeddings

        losses, queries, gradients = accumulate_gradients(
            losses_of_part,
            [query_view, ops.cast(labels, "float32")],
            self.num_parts,
            variables=self.trainable_variables,
            names={*self._means.names} - {*DIAGNOSTICS, "key_momentum"},
            width=width,
            scale_loss=self.optimizer.scale_loss,
        )
        return losses, queries, gradients, batch

    def _totals(self, losses: dict[str, tf.Tensor], queries, keys) -> dict[str, tf.Tensor]:
        """The losses summed over the replicas, and the diagnostics of the whole batch."""
        (queries,) = gather_rows([queries])
        return sum_by_name(losses) | diagnostics(queries, keys)

    def _follow_and_enqueue(self, rows, losses) -> None:
        """What follows the optimizer's step: key encoder, queue, running means."""
        momentum = self._scheduled(self.momentum)
        follow(self._query_side, self._key_side, momentum)
        self.queue.enqueue(*rows)
        self.step.assign_add(1)
        self._means.update_state(losses | {"key_momentum": momentum})

    def test_step(self, data):
        """The losses on a batch, against its own keys and the queue; nothing is updated but the metrics.

        Args:
            data: as of `train_step`.

        Returns:
            As of `train_step`.
        """
        (query_view, key_view), labels = self.views_and_labels(data)
        keys = self.encode_keys(key_view, training=False)
        losses, queries, batch = self._losses_of_batch(query_view, keys, labels, training=False)
        losses = self._totals(losses, queries, batch.keys) | {"key_momentum": self._scheduled(self.momentum)}
        self._means.update_state(losses)
        return self.get_metrics_result()

    def _scheduled(self, value):
        return value(self.step.value) if callable(value) else tf.constant(value, tf.float32)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        names = ("backbone", "projection_head", "num_labels", "method", "momentum", "bce_weight", "contrastive_weight")
        settings = {name: getattr(self, name) for name in names}
        settings |= {"queue_size": self.queue.capacity, "gradient_accumulation_steps": self.num_parts}
        serialised = {name: keras.saving.serialize_keras_object(value) for name, value in settings.items()}
        return serialised | {"name": self.name}

    @classmethod
    def from_config(cls, config: dict) -> "ContrastivePretrainer":
        """Inverse of `get_config`."""
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})
