"""From the splits of a dataset to batches of (views, labels).

Every batch is a function of (seed, step) alone: the order is a counter-based shuffle and the augmentation is stateless,
so a run that continues at step n sees exactly the batches that an uninterrupted run would have seen.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mulsupcon_tf.config.defaults import require_augmentation_for
from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.input_pipeline.augmentation import ImageAugmentation, mask_features
from mulsupcon_tf.input_pipeline.cache import DecodedImages
from mulsupcon_tf.input_pipeline.colour import Settings
from mulsupcon_tf.input_pipeline.decoding import cover, covering, fitted
from mulsupcon_tf.input_pipeline.drawn_views import draw_views, read_views
from mulsupcon_tf.input_pipeline.image_files import ReadImage, read_files
from mulsupcon_tf.input_pipeline.sampling_order import InOrder, SamplingOrder, steps_from, steps_per_epoch
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.graphs import as_written
from mulsupcon_tf.utils.tensors import require_at_least, require_within

EVALUATION_BATCH = 256
_SIZE_NEEDED = "--image_size must be given for image files. Received: none"


def training_batches(
    dataset: MultiLabelDataset,
    *,
    batch_size: int,
    num_views: int,
    augmentation: str | None,
    image_size: int | None,
    seed: int,
    mask_rate: float | None = 0.5,
    first_step: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Endless batches of the training split.

    Args:
        dataset: its "train" split is used.
        batch_size: B, over all workers.
        num_views: 2 for pretraining: elements are `((view_1, view_2), labels)`; 1: `(view_1, labels)`.
        augmentation: "mask" of vectors; "crop", "simple" or "simclr" (arXiv 2002.05709) of images; None: samples as they are.
        image_size: side of the views in pixels; None: as stored.
        seed: of order and augmentation.
        mask_rate: share of the features that "mask" hides; None or 0: none.
        first_step: the step whose batch comes first.
        shard: index of this worker and number of workers; each gets its contiguous share of every batch.

    Returns:
        A dataset of float32 views `[B, F]` or `[B, H, W, channels]` and float32 labels `[B, C]`; B over the workers.

    Raises:
        InputError: the split is smaller than a batch, the augmentation is not for such samples, B cannot be shared
            equally, image files come without an `image_size`, or a number is out of range.
    """
    require_at_least(1, batch_size=batch_size, image_size=1 if image_size is None else image_size)
    require_within(1, 2, num_views=num_views)
    require_within(0, 1, mask_rate=mask_rate or 0)
    split = dataset.splits["train"]
    worker, num_workers = shard
    if batch_size % num_workers:
        raise InputError(
            f"--batch_size must be a multiple of the {num_workers} workers. Received: --batch_size={batch_size}"
        )
    require_augmentation_for(dataset.kind, augmentation)
    share = batch_size // num_workers
    order = SamplingOrder(
        len(split), batch_size, steps_per_epoch(split, batch_size), seed, first=worker * share, count=share
    )
    return _augmented_batches(dataset, order, _Views(num_views, augmentation, image_size, mask_rate), first_step)


def fixed_view_batches(
    split: Split, *, batch_size: int, augmentation: str, image_size: int | None, seed: int, first_row: int = 0
) -> tf.data.Dataset:
    """One view of each image of a split in order, once: what a view is depends on seed and row alone.

    Args:
        split: N images.
        batch_size: B.
        augmentation: "crop", "simple" or "simclr".
        image_size: side of the views in pixels; None: as stored.
        seed: of the augmentation.
        first_row: the sample to begin with, a multiple of B.

    Returns:
        A dataset of `(views [B, H, W, channels] float32, labels)`; the last batch is filled up with its last sample.
    """
    names = tuple(map(str, range(split.labels.shape[1])))
    dataset = MultiLabelDataset("", "image", names, {"train": split})
    num_batches = -(-len(split) // batch_size)
    order = InOrder(len(split), batch_size, num_batches, seed, first=0, count=batch_size)
    first_batch = first_row // batch_size
    batches = _augmented_batches(dataset, order, _Views(1, augmentation, image_size, None), first_batch)
    return batches.take(num_batches - first_batch)


def _augmented_batches(
    dataset: MultiLabelDataset, order: SamplingOrder, views: "_Views", first_step: int
) -> tf.data.Dataset:
    if dataset.on_disk or _much_larger(dataset, views.image_size):
        return _streamed_batches(dataset, order, views, first_step)
    return _gathered_batches(dataset, order, views, first_step)


@dataclasses.dataclass(frozen=True)
class _Views:
    """What is made of a sample.

    Attributes:
        number: of views.
        augmentation: what makes them, or None.
        image_size: their side in pixels; None: as stored.
        mask_rate: share of the features that "mask" hides.
    """

    number: int
    augmentation: str | None
    image_size: int | None
    mask_rate: float | None

    def of_images(self, dataset: MultiLabelDataset) -> ImageAugmentation | None:
        """What makes them of images; None for samples as they are, and for vectors."""
        if self.augmentation in (None, "mask"):
            return None
        return ImageAugmentation(self.augmentation, _view_size(dataset, self.image_size))

    def seed(self, order: SamplingOrder, step: tf.Tensor, view: int) -> tf.Tensor:
        """`[2]` int64: the seed of what is drawn for one view of a step's batch."""
        return tf.stack([tf.constant(order.seed, tf.int64), step * self.number + view])

    def together(self, views: Sequence[tf.Tensor]) -> Any:
        """All of them as the model takes them."""
        return tuple(views) if self.number > 1 else views[0]


def evaluation_batches(
    split: Split, *, batch_size: int, image_size: int | None, file_shape: tuple[int, int, int] | None = None
) -> tf.data.Dataset:
    """The split in order, once, without augmentation.

    Args:
        split: N samples.
        batch_size: B; the last batch may be smaller.
        image_size: side of the images in pixels; None: as stored, which image files cannot be without a `file_shape`.
        file_shape: height, width and channels of what becomes of image files; None: squares in colour.

    Returns:
        A dataset of `(inputs [B, F] or [B, H, W, channels] float32, labels [B, C] float32)`.

    Raises:
        InputError: a number is out of range, or image files come without an `image_size`.
    """
    require_at_least(1, batch_size=batch_size, image_size=1 if image_size is None else image_size)
    rows = tf.data.Dataset.range(len(split))
    labels = tf.constant(split.labels)
    if isinstance(split.inputs, ImageFiles):
        if file_shape is None:
            if image_size is None:
                raise InputError(_SIZE_NEEDED)
            file_shape = (image_size, image_size, 3)
        read, shape = _image_reader(split.inputs), file_shape

        def one(row: tf.Tensor) -> tuple:
            return fitted(read(row, covering(shape[:2]))[0], shape), tf.cast(labels[row], tf.float32)

        samples = rows.map(as_written(one), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return samples.batch(batch_size).prefetch(1)
    inputs = tf.constant(split.inputs)

    def several(rows: tf.Tensor) -> tuple:
        return _as_seen(tf.gather(inputs, rows), image_size), tf.cast(tf.gather(labels, rows), tf.float32)

    return rows.batch(batch_size).map(as_written(several)).prefetch(1)


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
        raise InputError(_SIZE_NEEDED)
    return (height, width, channels)


def _gathered_batches(
    dataset: MultiLabelDataset, order: SamplingOrder, views: _Views, first_step: int
) -> tf.data.Dataset:
    """Samples in memory: a batch is gathered and augmented at once."""
    split = dataset.splits["train"]
    inputs, labels = None if split.views else tf.constant(split.inputs), tf.constant(split.labels)
    mine = slice(order.first, order.first + order.count)
    features = dataset.train_features
    fill = None if features is None else tf.constant(features.mean(0, dtype=np.float64), tf.float32)
    images = views.of_images(dataset)

    def view(samples: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        # Numbers are drawn for the whole batch, so that the workers' shares together are the batch of a single worker.
        if images is not None:
            draws = tf.random.stateless_uniform([images.num_draws, order.batch_size], seed)
            settings = {name: values[mine] for name, values in images.settings(draws).items()}
            return images.views_of_batch(samples, settings)
        if views.augmentation == "mask" and views.mask_rate:
            draws = tf.random.stateless_uniform([order.batch_size, samples.shape[1]], seed)
            return mask_features(samples, fill, draws[mine], views.mask_rate)
        return _as_seen(samples, views.image_size)

    def batch_of_step(step: tf.Tensor) -> tuple:
        rows = order.rows(step)
        if split.views is None:
            samples = [tf.gather(inputs, rows)] * views.number
        else:
            drawn = draw_views(split.views.number, views.number, order, step)
            samples = [read_views(split.views, rows, numbers[mine]) for numbers in drawn]
        made = [view(each, views.seed(order, step, number)) for number, each in enumerate(samples)]
        return views.together(made), tf.cast(tf.gather(labels, rows), tf.float32)

    batches = steps_from(first_step).map(
        as_written(batch_of_step), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return batches.prefetch(tf.data.AUTOTUNE)


def _streamed_batches(
    dataset: MultiLabelDataset, order: SamplingOrder, views: _Views, first_step: int
) -> tf.data.Dataset:
    """Image files, or images much larger than the views: each sample is read and augmented by itself, in parallel."""
    split = dataset.splits["train"]
    read, labels = _image_reader(split.inputs), tf.constant(split.labels)
    size = _view_size(dataset, views.image_size)
    images = views.of_images(dataset)
    mine = slice(order.first, order.first + order.count)

    def batch_of_step(step: tf.Tensor) -> tuple:
        """What is cheap for a whole batch: its samples, their labels and what is drawn for their views."""
        rows = order.rows(step)
        settings = {}
        if images is not None:
            seeds = [views.seed(order, step, number) for number in range(views.number)]
            draws = [tf.random.stateless_uniform([images.num_draws, order.batch_size], seed) for seed in seeds]
            for name, values in images.settings(tf.concat(draws, axis=1)).items():
                by_view = tf.reshape(values, (views.number, order.batch_size, *values.shape[1:]))
                settings[name] = tf.stack([by_view[number, mine] for number in range(views.number)], axis=1)
        return rows, settings, tf.cast(tf.gather(labels, rows), tf.float32)

    def sample(row: tf.Tensor, settings: Settings, label: tf.Tensor) -> tuple:
        if images is None:
            image, _ = read(row, covering(size))
            made = [cover(image[None], size)[0]] * views.number
        else:
            image, boxes = read(row, functools.partial(images.plan, settings))
            made = images.views_of_image(image, boxes, settings)
        return views.together(made), label

    samples = steps_from(first_step).map(as_written(batch_of_step)).unbatch()
    samples = samples.map(as_written(sample), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # Two batches ahead: at 224 pixels a batch of 128 pairs takes 154 MB.
    return samples.batch(order.count, drop_remainder=True).prefetch(2)


def _image_reader(inputs: np.ndarray | ImageFiles) -> ReadImage:
    if isinstance(inputs, DecodedImages):
        return inputs.reader()
    if isinstance(inputs, ImageFiles):
        return read_files(inputs)
    images, height, width = tf.constant(inputs), tf.constant(inputs.shape[1]), tf.constant(inputs.shape[2])
    return lambda row, plan: (images[row], plan(height, width).details)


def _view_size(dataset: MultiLabelDataset, image_size: int | None) -> tuple[int, int]:
    height, width, _ = model_input_shape(dataset, image_size)
    return height, width


def _much_larger(dataset: MultiLabelDataset, image_size: int | None) -> bool:
    """Whether images in memory are so large that cutting views out of them must smooth."""
    sides = [side for side in dataset.input_shape[:2] if side is not None]
    return dataset.kind == "image" and image_size is not None and min(sides) >= 2 * image_size


def _as_seen(inputs: tf.Tensor, image_size: int | None) -> tf.Tensor:
    """A batch of samples from memory as the model sees it."""
    if inputs.shape.rank == 4 and image_size is not None:
        return cover(inputs, (image_size, image_size))
    return tf.cast(inputs, tf.float32)
