"""Contrastive pretraining with recovered label distributions in a momentum-contrast framework.

Sources: MulSupConLD (arXiv 2501.19145), MulSupCon (AAAI 2024), SupCon (arXiv 2004.11362), MoCo (arXiv 1911.05722).
"""

import keras
import tensorflow as tf
from keras import ops

from mulsupcon_tf.losses.diagnostics import DIAGNOSTICS, diagnostics
from mulsupcon_tf.losses.methods import (
    LABEL_WEIGHING_METHODS,
    METHODS,
    RECOVERY_METHODS,
    Counts,
    contrastive_loss,
    count,
    key_statistics,
    label_weights_of,
    presence,
    recovery_losses,
    shares,
)
from mulsupcon_tf.losses.recovery import label_leak, label_weight_entropy
from mulsupcon_tf.models import layers  # noqa: F401 (saved backbones hold its layers)
from mulsupcon_tf.models.gradient_accumulation import accumulate_gradients, map_microbatches, slice_rows
from mulsupcon_tf.models.guarded_model import GuardedModel
from mulsupcon_tf.models.heads import DistributionHead
from mulsupcon_tf.models.key_encoder import follow, start_as_copy, written_by_forward_pass
from mulsupcon_tf.models.key_queue import CandidateKeys, KeyBatch, KeyQueue, gather_key_batch
from mulsupcon_tf.models.replicas import gather_rows, num_replicas, sum_over_replicas, synchronise_normalisation


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class ContrastivePretrainer(GuardedModel):
    """Query encoder, key encoder and queue, trained by one of eight contrastive losses.

    `fit` takes a dataset of `((view_1, view_2), labels)`: two augmented views `[B, ...]` and labels `[B, C]`, 0 or 1;
    for "truth" label distributions, above 0 on the labels that a sample has and 0 elsewhere.

    Args:
        backbone: model from a sample to its representation r `[B, R]`.
        projection_head: model from r to the embedding before normalisation `[B, D]`.
        num_labels: C.
        method: "cld" and "rld" recover a label distribution and weight the labels by it; "mulsupcon" weights them
            evenly, "truth" by the true distribution, which bounds what recovery can give; "any", "all", "jaccard"
            choose positives by label sets; "self" uses no labels (MoCo).
        queue_size: Q.
        temperature: τ.
        temperature_d: τ_d, between distributions ("cld").
        momentum: m of the key encoder; a number, or a schedule: a callable from the step to a number.
        alpha: α, weight of the alignment loss.
        beta: β, weight of the squared norm of the distribution head's kernel.
        gamma: γ, weight of the recovery loss.
        rho: ρ, share of the recovered distribution in the label weights.
        weigh_keys: weight the keys too: one counts in the mean of a label by its own label weight, not just by carrying
            the label. Only for the methods that weight labels: "cld", "rld", "mulsupcon", "truth".
        affinity_power: above 0, keys are positives by how alike their label weights are to the anchor's
            (`affinity_positives`), for the methods that weight labels; 0 is the loss over labels.
        rbf_sigma: σ ("rld").
        recovery_gradient: "flow" lets the gradient of the recovery loss reach the backbone, "stop" does not.
        average: "anchor" or, for "mulsupcon", "pair": the mean over all (anchor, label) pairs.
        bce_weight: weight of binary cross-entropy on a linear head beside the contrastive loss; 0 leaves it out.
        contrastive_weight: weight of the contrastive and the recovery loss; a schedule can hold them back at first.
        gradient_accumulation_steps: A, parts into which a batch is cut to fit a small device. All B keys are made
            first, part by part, and are the candidates of every part; gradients of the parts are summed for one step.
            Apart from batch normalisation, whose statistics are those of a part, and dropout, a step is the undivided
            one. B must be a multiple of A.
    """

    def __init__(
        self, backbone: keras.Model, projection_head: keras.Model, num_labels: int, *, method: str = "cld",
        queue_size: int = 1024, temperature: float = 0.1, temperature_d: float = 0.5, momentum=0.999,
        alpha: float = 1.0, beta: float = 1e-3, gamma: float = 1.0, rho: float = 0.5, rbf_sigma: float = 0.01,
        weigh_keys: bool = False, affinity_power: float = 0.0, recovery_gradient: str = "stop", average: str = "anchor",
        bce_weight: float = 0.0, contrastive_weight=1.0, gradient_accumulation_steps: int = 1, **kwargs,
    ):  # fmt: skip
        # Raw input may lie beyond float16: the backbone standardises it in float32 before its own precision applies.
        super().__init__(autocast=False, **kwargs)
        if method not in METHODS:
            raise ValueError(f"`method` must be one of {', '.join(METHODS)}. Received: method={method!r}")
        if weigh_keys and method not in LABEL_WEIGHING_METHODS:
            raise ValueError(
                f"`weigh_keys` needs a `method` among {', '.join(LABEL_WEIGHING_METHODS)}. Received: method={method!r}"
            )
        if affinity_power and (method not in LABEL_WEIGHING_METHODS or weigh_keys or average == "pair"):
            raise ValueError(
                f"`affinity_power` needs a `method` among {', '.join(LABEL_WEIGHING_METHODS)}, without `weigh_keys` and "
                f"pairs. Received: method={method!r}, weigh_keys={weigh_keys}, average={average!r}"
            )
        if gradient_accumulation_steps < 1:
            raise ValueError(
                f"`gradient_accumulation_steps` must be at least 1. Received: {gradient_accumulation_steps}"
            )
        self.settings = {
            "num_labels": num_labels, "method": method, "queue_size": queue_size, "temperature": temperature,
            "temperature_d": temperature_d, "momentum": momentum, "alpha": alpha, "beta": beta, "gamma": gamma,
            "rho": rho, "rbf_sigma": rbf_sigma, "weigh_keys": weigh_keys, "affinity_power": affinity_power,
            "recovery_gradient": recovery_gradient, "average": average, "bce_weight": bce_weight, "contrastive_weight": contrastive_weight,
            "gradient_accumulation_steps": gradient_accumulation_steps,
        }  # fmt: skip
        self.method, self.average, self.recovery_gradient = method, average, recovery_gradient
        self.temperature, self.temperature_d, self.rbf_sigma = temperature, temperature_d, rbf_sigma
        self.alpha, self.beta, self.gamma, self.rho, self.weigh_keys = alpha, beta, gamma, rho, weigh_keys
        self.affinity_power = affinity_power
        self.momentum, self.contrastive_weight, self.bce_weight = momentum, contrastive_weight, bce_weight
        self.num_parts = gradient_accumulation_steps

        self.backbone, self.projection_head = backbone, projection_head
        num_features = backbone.output_shape[-1]
        self.distribution_head = DistributionHead(num_labels, name="distribution_head")
        self.distribution_head.build((None, num_features))
        if bce_weight:
            self.classification_head = keras.layers.Dense(num_labels, dtype="float32", name="classification_head")
            self.classification_head.build((None, num_features))

        self.key_backbone = keras.models.clone_model(backbone)
        self.key_projection_head = keras.models.clone_model(projection_head)
        self.key_distribution_head = DistributionHead(num_labels, name="key_distribution_head")
        self.key_distribution_head.build((None, num_features))
        self._query_side = [backbone, projection_head, self.distribution_head]
        self._key_side = [self.key_backbone, self.key_projection_head, self.key_distribution_head]
        start_as_copy(self._query_side, self._key_side)
        synchronise_normalisation([*self._query_side, *self._key_side])
        if not self.recovers:
            for variable in self.distribution_head.variables:
                variable.trainable = False

        self.queue = KeyQueue(queue_size, projection_head.output_shape[-1], num_labels, name="queue")
        self.step = self.add_weight(name="step", shape=(), dtype="int64", initializer="zeros", trainable=False)
        names = ["loss", "contrastive_loss", "log_num_keys", *DIAGNOSTICS, "key_momentum"]
        names += ["recovery_loss", "similarity_loss", "alignment_loss", "leak"] if self.recovers else []
        names += ["label_weight_entropy"] if self.weighs_labels else []
        names += ["bce_loss"] if bce_weight else []
        self._trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.built = True

    @property
    def recovers(self) -> bool:
        """Whether the method recovers label distributions."""
        return self.method in RECOVERY_METHODS

    @property
    def weighs_labels(self) -> bool:
        """Whether the method weights the labels of an anchor, instead of choosing positives by label sets."""
        return self.method in LABEL_WEIGHING_METHODS

    @property
    def metrics(self) -> list:
        """Running means of the loss parts and diagnostics; reset by Keras at each epoch."""
        return [*self._trackers.values(), self._bad_steps_of_epoch]

    @property
    def written_by_forward_pass(self) -> list[keras.Variable]:
        """Statistics of normalisation and seeds of dropout, of the query and of the key side."""
        return list(written_by_forward_pass(self._query_side, self._key_side))

    def call(self, inputs, training=False):
        """Encodes samples by the query encoder.

        Returns:
            A dict of `features` r `[B, R]`, `embedding` q `[B, D]` (unit rows) and `distribution` d `[B, C]`, float32.
        """
        features = self.backbone(inputs, training=training)
        return {
            "features": ops.cast(features, "float32"),
            "embedding": _unit_rows(self.projection_head(features, training=training)),
            "distribution": ops.softmax(self.distribution_head(features), axis=-1),
        }

    def encode_keys(self, inputs, training=True) -> tuple[tf.Tensor, tf.Tensor]:
        """Keys k `[B, D]` and their distributions `[B, C]` by the key encoder, without gradient."""
        features = self.key_backbone(inputs, training=training)
        keys = _unit_rows(self.key_projection_head(features, training=training))
        distributions = ops.softmax(self.key_distribution_head(features), axis=-1)
        return tf.stop_gradient(keys), tf.stop_gradient(distributions)

    def losses_and_diagnostics(self, view, labels, keys, key_distributions, training=True) -> dict[str, tf.Tensor]:
        """Every loss part of a batch, before the step changes anything.

        Args:
            view: `[B, ...]` the query side's view.
            labels: `[B, C]`.
            keys: `[B, D]` this batch's keys.
            key_distributions: `[B, C]`.
            training: whether dropout and batch normalisation are in training mode.

        Returns:
            Scalars by name; "loss" is the one to minimise.
        """
        batch = self._key_batch(keys, labels, key_distributions)
        return self._totals(*self._share_losses(view, labels, batch, training=training), batch.keys)

    def _key_batch(self, keys, labels, distributions) -> KeyBatch:
        """The key side of a batch: `[b, D]`, `[b, C]` as `fit` gets them, `[b, C]` by the key encoder."""
        return gather_key_batch(keys, presence(labels), labels if self.method == "truth" else distributions)

    def _share_losses(self, view, labels, batch: KeyBatch, *, training=True) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """What this replica's share adds to the loss parts of a batch, and its queries."""
        return self.part_losses(
            view, ops.cast(labels, "float32"), CandidateKeys(batch, self.queue),
            first_key=batch.first, whole=batch.counts, training=training,
        )  # fmt: skip

    def _totals(self, parts: dict[str, tf.Tensor], queries, keys) -> dict[str, tf.Tensor]:
        """The loss parts summed over the replicas, and the diagnostics of the whole batch."""
        if num_replicas() > 1:
            names, values = zip(*parts.items(), strict=True)
            parts = dict(zip(names, tf.unstack(sum_over_replicas(tf.stack(values))), strict=True))
        (queries,) = gather_rows([queries])
        return parts | diagnostics(queries, keys)

    def part_losses(
        self, view, labels, candidates: CandidateKeys, *, first_key=0, whole: Counts | None = None, training=True
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """What some anchors of a batch add to every loss part of it.

        Args:
            view: `[N, ...]` the query side's view.
            labels: `[N, C]` float32.
            candidates: the keys of the whole batch, and the queue.
            first_key: the row of the batch's keys that is the first anchor's own; those of the others follow.
            whole: counts of the whole batch; None where these anchors are all of it.
            training: whether dropout and batch normalisation are in training mode.

        Returns:
            Scalars by name, which summed over the parts of a batch are its loss parts; and the queries `[N, D]`.
        """
        truth, labels = labels, presence(labels)
        share = shares(labels, whole)
        features = self.backbone(view, training=training)
        queries = _unit_rows(self.projection_head(features, training=training))
        parts = {"log_num_keys": tf.math.log(candidates.number()) * share.samples}
        distributions = truth if self.method == "truth" else None
        if self.recovers:
            recovered = features if self.recovery_gradient == "flow" else tf.stop_gradient(features)
            distributions = ops.softmax(self.distribution_head(recovered), axis=-1)
        weights = None
        if self.weighs_labels:
            weights = label_weights_of(self.method, distributions, labels, rho=self.rho)
            parts["label_weight_entropy"] = label_weight_entropy(weights) * share.labelled
        found = candidates.statistics(
            key_statistics(
                self.method, queries, labels, distributions, temperature=self.temperature,
                temperature_d=self.temperature_d, rbf_sigma=self.rbf_sigma, label_weights=weights, rho=self.rho,
                weigh_keys=self.weigh_keys, affinity_power=self.affinity_power,
            )
        )  # fmt: skip
        if self.recovers:
            parts |= recovery_losses(
                self.method, distributions, labels, found, kernel=self.distribution_head.kernel,
                temperature_d=self.temperature_d, alpha=self.alpha, beta=self.beta, share=share,
            )  # fmt: skip
            parts["leak"] = label_leak(distributions, labels) * share.labelled
        parts["contrastive_loss"] = contrastive_loss(
            self.method, queries, labels, weights, found, temperature=self.temperature, average=self.average,
            own_keys=slice_rows(candidates.batch.keys, first_key, tf.shape(queries)[0]), share=share,
        )  # fmt: skip
        scale = self._scheduled(self.contrastive_weight)
        terms = [scale * parts["contrastive_loss"]]
        if self.recovers:
            terms.append(scale * self.gamma * parts["recovery_loss"])
        if self.bce_weight:
            logits = self.classification_head(features)
            per_label = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
            parts["bce_loss"] = tf.reduce_mean(per_label) * share.samples
            # The sum over labels: the contrastive loss too is a sum over the labels of an anchor, not a mean over all C.
            terms.append(self.bce_weight * tf.reduce_mean(tf.reduce_sum(per_label, axis=-1)) * share.samples)
        # No chain of additions: TensorFlow's optimizer of graphs orders one anew at each start, which moves the last bit.
        return parts | {"loss": tf.reduce_sum(tf.stack(terms))}, queries

    def train_step(self, data):
        """One step: keys, loss, optimizer, key encoder, queue. Everything stays on the device."""
        (query_view, key_view), labels = data
        before = self.read_forward_state()
        batch = self._key_batch(*self._encode_keys_in_parts(key_view, labels))
        if self.num_parts == 1:
            with tf.GradientTape() as tape:
                parts, queries = self._share_losses(query_view, labels, batch)
                loss = self.optimizer.scale_loss(parts["loss"])
            gradients = tape.gradient(loss, self.trainable_variables)
        else:
            parts, queries, gradients = self._accumulated_gradients(query_view, labels, batch)
        parts = self._totals(parts, queries, batch.keys)
        rows = (batch.keys, batch.labels, batch.distributions)
        self.finish_step(before, gradients, [parts["loss"], *rows], self._follow_and_enqueue, (rows, parts))
        return self.get_metrics_result()

    def _follow_and_enqueue(self, rows, parts) -> None:
        """What follows the optimizer's step: key encoder, queue, running means."""
        momentum = self._scheduled(self.momentum)
        follow(self._query_side, self._key_side, momentum)
        self.queue.enqueue(*rows)
        self.step.assign_add(1)
        self._track(parts | {"key_momentum": momentum})

    def _encode_keys_in_parts(self, view, labels) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Keys, labels and key distributions of this replica's share of a batch."""
        if self.num_parts == 1:
            keys, distributions = self.encode_keys(view)
        else:
            _, (keys, distributions) = map_microbatches(
                lambda first, part: ((), self.encode_keys(part)), [view], self.num_parts,
                widths=(self.queue.embedding_size, self.queue.num_labels),
            )  # fmt: skip
        return keys, labels, distributions

    def _accumulated_gradients(self, view, labels, batch: KeyBatch):
        """Loss parts, queries and gradients of a batch, whose activations are held for one part at a time."""
        labels, candidates = ops.cast(labels, "float32"), CandidateKeys(batch, self.queue)
        whole = batch.counts or count(presence(labels))

        def losses_of_part(first, part_view, part_labels):
            return self.part_losses(part_view, part_labels, candidates, first_key=batch.first + first, whole=whole)

        return accumulate_gradients(
            losses_of_part, [view, labels], self.num_parts, variables=self.trainable_variables,
            names=self._trackers.keys() - {*DIAGNOSTICS, "key_momentum"}, width=self.queue.embedding_size,
            scale_loss=self.optimizer.scale_loss,
        )  # fmt: skip

    def test_step(self, data):
        """The losses on a batch, against its own keys and the queue; nothing is updated but the metrics."""
        (query_view, key_view), labels = data
        keys = self.encode_keys(key_view, training=False)
        parts = self.losses_and_diagnostics(query_view, labels, *keys, training=False)
        self._track(parts | {"key_momentum": self._scheduled(self.momentum)})
        return self.get_metrics_result()

    def _track(self, parts: dict[str, tf.Tensor]) -> None:
        for name, tracker in self._trackers.items():
            tracker.update_state(parts[name])

    def _scheduled(self, value):
        return value(self.step.value) if callable(value) else tf.constant(value, tf.float32)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        serialised = {name: keras.saving.serialize_keras_object(value) for name, value in self.settings.items()}
        networks = {"backbone": self.backbone, "projection_head": self.projection_head}
        serialised |= {name: keras.saving.serialize_keras_object(net) for name, net in networks.items()}
        return serialised | {"name": self.name}

    @classmethod
    def from_config(cls, config: dict) -> "ContrastivePretrainer":
        """Inverse of `get_config`."""
        return cls(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})


def _unit_rows(embedding):
    """`[B, D]` float32 with rows of length 1."""
    return ops.normalize(ops.cast(embedding, "float32"), axis=-1)
