"""Multi-label classification on a (pretrained) backbone: fine-tuning and linear probing."""

import contextlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import keras
from keras import ops

from mulsupcon_tf.losses.positives_against_negatives import TwoWayLoss
from mulsupcon_tf.models import layers  # noqa: F401 (saved backbones hold its layers)
from mulsupcon_tf.models.guarded_model import GuardedModel
from mulsupcon_tf.models.heads import require_networks
from mulsupcon_tf.models.replicas import synchronise_normalisation
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import require_at_least, require_finite, require_positive


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class MultiLabelClassifier(GuardedModel):
    """A linear layer on a backbone; the output is one logit a label.

    Compile it with a loss of logits, `MultiLabelCrossentropy()` or `keras.losses.BinaryCrossentropy(from_logits=True)`; `fit`
    takes `(samples, labels)`.

    Args:
        backbone: model from a sample to its representation r `[B, R]`.
        num_labels: C, at least 1.
        linear_probe: train the linear layer alone; the backbone runs in inference mode, its batch normalisation too. It is frozen
            for this classifier alone: another model that is built on the same backbone trains it.
        logit_temperature: T > 0; probabilities are sigmoid(x / T + b) of the logits x. See `calibrate`.
        logit_offset: b, finite.
        **kwargs: as for `keras.Model`.

    Raises:
        InputError: a number is out of range, or the backbone has no known shapes.
    """

    def __init__(
        self,
        backbone: keras.Model,
        num_labels: int,
        *,
        linear_probe: bool = False,
        logit_temperature: float = 1.0,
        logit_offset: float = 0.0,
        **kwargs,
    ):
        # Raw input may lie beyond float16: the backbone standardises it in float32 before its own precision applies.
        super().__init__(autocast=False, **kwargs)
        require_networks(backbone=backbone)
        require_at_least(1, num_labels=num_labels)
        self.num_labels, self.linear_probe = num_labels, linear_probe
        self.calibrate(logit_temperature, logit_offset)
        self.backbone = backbone
        synchronise_normalisation([backbone])
        self.head = keras.layers.Dense(num_labels, dtype="float32", name="head")
        self.head.build((None, backbone.output_shape[-1]))
        self.built = True

    def call(self, inputs, training=False):
        """Logits of samples.

        Args:
            inputs: `[B, ...]`, as the backbone takes them.
            training: whether dropout and batch normalisation act as in training; never those of a linear probe.

        Returns:
            `[B, C]` float32.
        """
        return self.head(self.backbone(inputs, training=training and not self.linear_probe))

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What is trained: of a linear probe the linear layer alone."""
        # Not `backbone.trainable = False`, which would freeze it for every other model that holds it, without a word.
        return self.head.trainable_variables if self.linear_probe else super().trainable_variables

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """As `trainable_variables`."""
        return self.trainable_variables

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        """The others, seeds among them."""
        return _without(self.variables, self.trainable_variables)

    @property
    def non_trainable_weights(self) -> list[keras.Variable]:
        """The other weights."""
        return _without(self.weights, self.trainable_variables)

    def embed_and_classify(self, inputs) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """Calibrated probabilities and representations, in inference mode.

        Args:
            inputs: `[B, ...]`, as the backbone takes them.

        Returns:
            Probabilities `[B, C]` in [0, 1] and r `[B, R]`, both float32.
        """
        log_odds, features = self.log_odds(inputs)
        return ops.sigmoid(log_odds / self.logit_temperature + self.logit_offset), features

    def log_odds(self, inputs) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """What calibrated probabilities are made of, here the logits, and representations.

        Args:
            inputs: `[B, ...]`, as the backbone takes them.

        Returns:
            Log-odds before calibration `[B, C]` and r `[B, R]`, both float32.
        """
        features = self.backbone(inputs, training=False)
        return self.head(features), ops.cast(features, "float32")

    def calibrate(self, temperature: float, offset: float = 0.0) -> None:
        """Sets T and b of probabilities = sigmoid(logits / T + b), as temperature scaling does (arXiv 1706.04599), with an offset.

        Logits do not change; a graph that was traced before keeps its T and b.

        Args:
            temperature: T > 0, by which logits are divided.
            offset: b, which is added to them then.

        Raises:
            InputError: T is not above 0, or b is not finite.
        """
        require_positive(logit_temperature=temperature)
        require_finite(logit_offset=offset)
        self.logit_temperature, self.logit_offset = float(temperature), float(offset)

    @property
    def is_calibrated(self) -> bool:
        """Whether probabilities are more than the sigmoid of the logits."""
        return (self.logit_temperature, self.logit_offset) != (1.0, 0.0)

    def compile(
        self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None, weighted_metrics=None, **kwargs
    ) -> None:
        """As `keras.Model.compile`.

        Args:
            optimizer: as of `keras.Model.compile`.
            loss: of logits `[B, C]`; else as there.
            loss_weights: as there.
            metrics: of logits; else as there.
            weighted_metrics: of logits; else as there.
            **kwargs: as there.

        Raises:
            InputError: a loss or a metric takes probabilities, as some of Keras do without `from_logits=True`; or the loss
                compares all samples of a batch, of which a replica has a share.
        """
        losses, measures = keras.tree.flatten(loss), keras.tree.flatten([metrics, weighted_metrics])
        for given in [*map(_made(keras.losses), losses), *map(_made(keras.metrics), measures)]:
            if _takes_probabilities(given):
                raise InputError(
                    "MultiLabelClassifier gives logits, so losses and metrics must have from_logits=True. "
                    f"Received: {getattr(given, 'name', None) or getattr(given, '__name__', given)} without"
                )
            if isinstance(given, TwoWayLoss) and self.distribute_strategy.num_replicas_in_sync > 1:
                raise InputError(
                    "TwoWayLoss compares the samples of a whole batch, so there must be one replica. "
                    f"Received: {self.distribute_strategy.num_replicas_in_sync} replicas"
                )
        super().compile(optimizer, loss, loss_weights, metrics, weighted_metrics, **kwargs)

    def fit(self, *args, class_weight=None, **kwargs):
        """As `keras.Model.fit`, but without `class_weight`: Keras would take a row of labels for one class.

        Args:
            *args: as of `keras.Model.fit`.
            class_weight: None.
            **kwargs: as of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            InputError: `class_weight` is given.
        """
        _refuse_class_weight(class_weight)
        return super().fit(*args, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """As `keras.Model.train_on_batch`, but without `class_weight`, as `fit`.

        Args:
            x: samples `[B, ...]`.
            y: labels `[B, C]`.
            sample_weight: `[B]`, or None.
            class_weight: None.
            return_dict: whether the results come by name.

        Returns:
            The loss and the metrics, numbers.

        Raises:
            InputError: `class_weight` is given.
        """
        _refuse_class_weight(class_weight)
        return super().train_on_batch(x, y, sample_weight, return_dict=return_dict)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return super().get_config() | {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_labels": self.num_labels,
            "linear_probe": self.linear_probe,
            "logit_temperature": self.logit_temperature,
            "logit_offset": self.logit_offset,
        }

    @classmethod
    def from_config(cls, config: dict) -> "MultiLabelClassifier":
        """Inverse of `get_config`."""
        return cls(**config | {"backbone": keras.saving.deserialize_keras_object(config["backbone"])})


def _without(variables: list[keras.Variable], others: list[keras.Variable]) -> list[keras.Variable]:
    left_out = {id(variable) for variable in others}
    return [variable for variable in variables if id(variable) not in left_out]


def _refuse_class_weight(class_weight: Any) -> None:
    if class_weight is not None:
        raise InputError(
            "class_weight is of classes that exclude each other; weigh labels by MultiLabelCrossentropy(weights="
            "balanced_weights(labels)). Received: class_weight"
        )


def _made(kind: ModuleType) -> Callable[[Any], Any]:
    """From what `compile` is given, a name perhaps, to the loss or the metric; what has no such name is left to Keras."""

    def get(given: Any) -> Any:
        with contextlib.suppress(ValueError, TypeError):
            return kind.get(given)
        return given

    return get


def _takes_probabilities(given: Any) -> bool:
    """Whether a loss or a metric can be told that it gets logits, and is not."""
    if isinstance(given, keras.metrics.AUC):
        return not given.get_config()["from_logits"]
    if isinstance(given, keras.losses.Loss | keras.metrics.Metric):
        return getattr(given, "from_logits", True) is False
    if not callable(given):
        return False
    told = inspect.signature(given).parameters.get("from_logits")
    return told is not None and told.default is False
