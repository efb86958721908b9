"""What a network that is not trained makes of images, batch by batch."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.input_pipeline.batches import evaluation_batches, fixed_view_batches, model_input_shape
from mulsupcon_tf.input_pipeline.image_files import naming_unreadable
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.serving.saved_model import float32_policy
from mulsupcon_tf.training.progress_bar import progress_line, say_above
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.graphs import compiled
from mulsupcon_tf.utils.wording import in_time

# At 224 pixels the widest layers of a batch take some hundred MB.
BATCH = 64


class FixedView(NamedTuple):
    """An augmented view that is the same whenever it is made."""

    augmentation: str
    seed: int


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A network that turns images into features, in inference mode and in float32.

    Attributes:
        backbone: model from `[B, H, W, channels]` to `[B, R]`, not trainable.
        image_size: side in pixels of the images that it sees; None: as stored.
        encode: the same as a graph.
    """

    backbone: keras.Model
    image_size: int | None
    encode: Callable[[tf.Tensor], tf.Tensor]

    @classmethod
    def build(cls, name: str, weights: str, dataset: MultiLabelDataset, image_size: int | None) -> "Extractor":
        """That of a backbone.

        Args:
            name: of a backbone for images.
            weights: "imagenet" or a `.weights.h5` file.
            dataset: what is encoded.
            image_size: side of the images in pixels; None: as stored.

        Raises:
            InputError: the dataset has no images, or see `build_backbone`.
        """
        if dataset.kind != "image":
            raise InputError(f"--backbone={name} takes images. Received: {dataset.kind}s of --dataset={dataset.name}")
        with float32_policy():
            backbone = build_backbone(name, model_input_shape(dataset, image_size), weights=weights)
        backbone.trainable = False
        # Of any number of images: a part that is not full needs no graph of its own.
        spec = tf.TensorSpec(backbone.input_shape, tf.float32)
        encode = compiled(lambda images: backbone(images, training=False), input_signature=[spec])
        return cls(backbone, image_size, encode)

    @property
    def num_features(self) -> int:
        """R."""
        return self.backbone.output_shape[-1]

    def blocks(
        self,
        split: Split,
        name: str,
        *,
        first_row: int = 0,
        view: FixedView | None = None,
        announced: int = 0,
    ) -> Iterator[np.ndarray]:
        """Yields the features of the samples in order, `[at most BATCH, R]` at a time, and shows how far it is.

        Args:
            split: N samples.
            name: of the split, for messages.
            first_row: the sample to begin with, a multiple of BATCH.
            view: which is encoded of each; None: the sample as it is.
            announced: images for which the time is said, from the pace of the first; 0: it is not.

        Raises:
            InputError: an image file cannot be read.
        """
        rest = split[first_row:]
        if view is None:
            batches = evaluation_batches(rest, batch_size=BATCH, image_size=self.image_size)
        else:
            batches = fixed_view_batches(
                split,
                batch_size=BATCH,
                augmentation=view.augmentation,
                image_size=self.image_size,
                seed=view.seed,
                first_row=first_row,
            )
        bar = progress_line(len(split), "image", first=first_row, title=name)
        with naming_unreadable(lambda: rest.inputs), bar:
            for number, (images, _) in enumerate(batches):
                # The last batch of views is filled up.
                block = self.encode(images).numpy()[: len(rest) - number * BATCH]
                bar.update(len(block))
                if number == 0:
                    began = time.perf_counter()  # the first batch makes the graph
                elif number == 1 and announced:
                    pace = len(block) / (time.perf_counter() - began)
                    duration = in_time(announced / pace)
                    say_above(
                        bar, "%s: features of %d images at %.0f a second, about %s", name, announced, pace, duration
                    )
                yield block


def identity(inputs: np.ndarray | ImageFiles) -> tuple[str, ...]:
    """What images are, as texts: of files their names below the data's folder, sizes and times of change."""
    if isinstance(inputs, ImageFiles):
        return (digest(inputs.names, inputs.stamps()),)
    return str(inputs.shape), hashlib.sha256(inputs.tobytes()).hexdigest()


def digest(*parts: object) -> str:
    """32 hexadecimal digits that tell what can be written as JSON from anything else."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
