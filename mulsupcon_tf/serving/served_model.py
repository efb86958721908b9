"""A SavedModel of `export`, loaded: its label names, its thresholds and what it answers."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mulsupcon_tf.evaluation.thresholds import above
from mulsupcon_tf.input_pipeline.image_files import decoding_fault
from mulsupcon_tf.serving.model_inputs import Refused, Sample, samples_of
from mulsupcon_tf.serving.saved_model import load_saved_model

# A prediction is judged sample by sample here, so the threshold is the one that is best for the metric that does that.
DECISION_METRIC = "example_f1"


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A loaded SavedModel.

    Attributes:
        directory: its folder.
        label_names: C names.
        thresholds: by the metric that they are for, a scalar or `[C]`.
        num_features: F of a model on vectors; None of one on images.
        serve: its signature `serving_default`.
    """

    directory: str
    label_names: tuple[str, ...]
    thresholds: dict[str, np.ndarray]
    num_features: int | None
    serve: Callable[..., dict[str, tf.Tensor]]

    @classmethod
    def load(cls, directory: str) -> "ServedModel":
        """Reads the model.

        Args:
            directory: a folder that `export` or a fine-tuning has written.

        Raises:
            InputError: see `load_saved_model`.
        """
        loaded = load_saved_model(directory)
        serve = loaded.signatures["serving_default"]
        metadata = {name: tensor.numpy() for name, tensor in loaded.signatures["metadata"]().items()}
        ((input_name, spec),) = serve.structured_input_signature[1].items()
        names = (name.decode() for name in metadata["threshold_names"])
        return cls(
            directory,
            tuple(name.decode() for name in metadata["label_names"]),
            dict(zip(names, metadata["thresholds"], strict=True)),
            None if input_name == "image_bytes" else spec.shape[-1],
            serve,
        )

    def outputs(self, values: Sequence[Any]) -> dict[str, np.ndarray]:
        """Probabilities `[N, C]` and embeddings `[N, R]` of N samples, by name.

        Args:
            values: encoded images as bytes, or vectors `[F]`.

        Raises:
            tf.errors.InvalidArgumentError: an image cannot be decoded.
        """
        images = self.num_features is None
        given = {"image_bytes": tf.constant(values)} if images else {"features": tf.constant(np.stack(values))}
        return {name: tensor.numpy() for name, tensor in self.serve(**given).items()}

    def given_labels(self, probabilities: np.ndarray) -> list[str]:
        """The names of the labels whose probability is above the threshold.

        Args:
            probabilities: `[C]`.
        """
        given = above(probabilities, self.thresholds[DECISION_METRIC])
        return [name for name, here in zip(self.label_names, given, strict=True) if here]

    def answers(self, files: Sequence[str], batch_size: int, refused: Refused) -> Iterator[tuple[dict, dict]]:
        """Yields the key and the outputs, a row of each, of all samples that can be read, in order.

        Args:
            files: as `model_inputs.named_files` gives them.
            batch_size: samples of one call of the model.
            refused: gets the reason for each file that has no answer, by its name.
        """
        for batch in _grouped(samples_of(files, self.num_features, refused), batch_size):
            yield from self._answered(batch, refused)

    def _answered(self, batch: list[Sample], refused: Refused) -> list[tuple[dict, dict]]:
        keys, values = zip(*batch, strict=True)
        try:
            outputs = self.outputs(values)
        except tf.errors.InvalidArgumentError as error:
            if len(batch) == 1:
                refused.add_image(keys[0]["file"], decoding_fault(error) if values[0] else "it is empty")
                return []
            half = len(batch) // 2
            return [*self._answered(batch[:half], refused), *self._answered(batch[half:], refused)]
        return [(key, {name: rows[row] for name, rows in outputs.items()}) for row, key in enumerate(keys)]


def _grouped(samples: Iterator, size: int) -> Iterator[list]:
    group: list = []
    for sample in samples:
        group.append(sample)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
