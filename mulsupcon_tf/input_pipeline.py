"""From the splits of a dataset to batches of (views, labels).

Every batch is a function of (seed, step) alone: the order is a counter-based shuffle and the augmentation is stateless,
so a run that continues at step n sees exactly the batches that an uninterrupted run would have seen.
"""

import numpy as np
import tensorflow as tf

from mulsupcon_tf.augmentation import mask_features, random_crop
from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.errors import InputError


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Full batches in one pass; the shuffle changes with the epoch, so no sample is left out for long.

    Raises:
        InputError: the split is smaller than one batch.
    """
    if batch_size > len(split):
        raise InputError(
            f"--batch_size must be at most the {len(split)} training samples. Received: --batch_size={batch_size}"
        )
    return len(split) // batch_size


def training_batches(
    dataset: MultiLabelDataset,
    *,
    batch_size: int,
    num_views: int,
    augmentation: str | None,
    image_size: int | None,
    seed: int,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Endless batches of the training split.

    Args:
        dataset: its "train" split is used.
        batch_size: B.
        num_views: 2 for pretraining: elements are `((view_1, view_2), labels)`; 1: `(view_1, labels)`.
        augmentation: "mask", "crop", "simple", or None for samples as they are.
        image_size: side of the views in pixels; None: as stored.
        seed: of order and augmentation.
        first_step: the step whose batch comes first.

    Returns:
        A dataset of float32 views `[B, F]` or `[B, H, W, channels]` and float32 labels `[B, C]`.
    """
    split = dataset.splits["train"]
    num_batches = steps_per_epoch(split, batch_size)
    num_samples = len(split)
    make_view = _view_maker(dataset, augmentation, image_size)
    inputs, labels = tf.constant(split.inputs), tf.constant(split.labels)

    def batch_of_step(step: tf.Tensor) -> tuple:
        epoch, position = step // num_batches, step % num_batches
        places = position * batch_size + tf.range(batch_size, dtype=tf.int64)
        shuffle_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
        rows = tf.random.experimental.index_shuffle(places, shuffle_seed, tf.constant(num_samples - 1, tf.int64))
        samples = tf.gather(inputs, rows)
        views = tuple(
            make_view(samples, tf.stack([tf.constant(seed, tf.int64), step * num_views + view]))
            for view in range(num_views)
        )
        return (views if num_views > 1 else views[0]), tf.cast(tf.gather(labels, rows), tf.float32)

    steps = tf.data.Dataset.counter(start=first_step)
    return steps.map(batch_of_step, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(split: Split, *, batch_size: int, image_size: int | None) -> tf.data.Dataset:
    """The split in order, once, without augmentation: `(inputs [B, ...] float32, labels [B, C] float32)`."""

    def prepare(inputs: tf.Tensor, labels: tf.Tensor) -> tuple:
        return _resized(inputs, image_size), tf.cast(labels, tf.float32)

    return tf.data.Dataset.from_tensor_slices((split.inputs, split.labels)).batch(batch_size).map(prepare).prefetch(1)


def model_input_shape(dataset: MultiLabelDataset, image_size: int | None) -> tuple[int, ...]:
    """Shape of one sample as the model sees it.

    Raises:
        InputError: image files need an `image_size`.
    """
    if dataset.kind == "vector":
        return tuple(size for size in dataset.input_shape if size is not None)
    height, width, channels = dataset.input_shape
    height, width = (image_size, image_size) if image_size is not None else (height, width)
    if height is None or width is None or channels is None:
        raise InputError("--image_size must be given for image files. Received: none")
    return (height, width, channels)


def _view_maker(dataset: MultiLabelDataset, augmentation: str | None, image_size: int | None):
    if augmentation is None:
        return lambda samples, seed: _resized(samples, image_size)
    features = dataset.train_features
    if (augmentation == "mask") != (features is not None):
        raise InputError(
            "--augmentation must be mask for vectors, crop, simple or simclr for images. "
            f"Received: --augmentation={augmentation} for {dataset.kind}s"
        )
    if features is not None:
        fill = tf.constant(features.mean(0, dtype=np.float64).astype(np.float32))
        return lambda samples, seed: mask_features(samples, fill, seed)
    height, width, _ = model_input_shape(dataset, image_size)
    return lambda samples, seed: random_crop(samples, (height, width), seed, flip=augmentation == "simple")


def _resized(inputs: tf.Tensor, image_size: int | None) -> tf.Tensor:
    inputs = tf.cast(inputs, tf.float32)
    if inputs.shape.rank == 4 and image_size is not None and inputs.shape[1:3] != (image_size, image_size):
        inputs = tf.image.resize(inputs, (image_size, image_size), antialias=True)
    return inputs
