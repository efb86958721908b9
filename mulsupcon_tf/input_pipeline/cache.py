"""`--cache`: image files are decoded once and kept in memory, small."""

import dataclasses
import logging
from typing import Any

import numpy as np
import tensorflow as tf

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.input_pipeline.decoding import DecodingPlan, Planner, decode_as_planned, largest_shrink
from mulsupcon_tf.input_pipeline.image_files import ReadImage, naming_unreadable
from mulsupcon_tf.input_pipeline.memory import available_memory
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.graphs import as_written
from mulsupcon_tf.utils.wording import counted, in_bytes

# The shorter side of what is kept, in sides of the views: the usual 256 pixels for views of 224.
MARGIN = 8 / 7
CACHED_SPLITS = ("train", "validation")
_SAMPLED = 200  # files by which the memory is estimated
_RESERVE = 1.25  # address space beyond the estimate; what is not written to takes no memory
_ALIGNMENT = 64  # that TensorFlow wants of memory that it did not allocate itself


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedImages(ImageFiles):
    """Image files whose pixels are in memory, all in one buffer.

    Attributes:
        pixels: `[bytes]` uint8 variable, one image after the other. A variable, since tf.data copies a captured tensor.
        starts: `[N]` int64, where each begins.
        sides: `[N, 2]` int32, height and width of each.
    """

    pixels: tf.Variable
    starts: np.ndarray
    sides: np.ndarray

    def __getitem__(self, rows) -> "DecodedImages":
        """The images at `rows`; the buffer is shared."""
        return DecodedImages(
            self.paths[rows],
            self.pixels,
            self.starts[rows],
            self.sides[rows],
            folder=self.folder,
            max_pixels=self.max_pixels,
        )

    def reader(self) -> ReadImage:
        """See `image_files.read_files`."""
        all_starts, all_sides = tf.constant(self.starts), tf.constant(self.sides)

        def read(row: tf.Tensor, plan: Planner) -> tuple[tf.Tensor, Any]:
            start, sides = all_starts[row], all_sides[row]
            height, width = sides[0], sides[1]
            image = self.pixels[start : start + 3 * tf.cast(height * width, tf.int64)]
            return tf.reshape(image, (height, width, 3)), plan(height, width).details

        return read


def with_decoded_cache(dataset: MultiLabelDataset, image_size: int | None) -> MultiLabelDataset:
    """Decodes the images of train and validation to a shorter side of 8/7 `image_size`; smaller ones stay as they are.

    Args:
        dataset: returned as it is where its samples are in memory.
        image_size: side of the views in pixels.

    Raises:
        InputError: memory does not suffice, or a file is no whole image.
    """
    if not dataset.on_disk:
        return dataset
    if image_size is None:
        raise InputError("--image_size must be given for image files. Received: none")
    shorter_side = round(MARGIN * image_size)
    needs = {name: cached_bytes(dataset.splits[name].inputs, image_size) for name in CACHED_SPLITS}
    needed, there = sum(needs.values()), available_memory()
    if needed > there:
        raise InputError(
            f"--cache must fit into memory: it takes about {in_bytes(needed)} at --image_size={image_size}. "
            f"Received: {in_bytes(there)} available"
        )
    splits = dict(dataset.splits)
    for name in CACHED_SPLITS:
        split = splits[name]
        splits[name] = Split(_decode_all(split.inputs, shorter_side, needs[name]), split.labels, split.distributions)
    logging.getLogger("mulsupcon_tf").info(
        "%s in memory, %s",
        counted(sum(len(splits[name]) for name in CACHED_SPLITS), "decoded image"),
        in_bytes(needed),
    )
    return dataclasses.replace(dataset, splits=splits)


def cached_bytes(files: Any, image_size: int) -> int:
    """What the cache of some image files takes in memory, estimated by a part of them.

    Args:
        files: `ImageFiles`.
        image_size: side of the views in pixels.

    Raises:
        InputError: a file is no whole image.
    """
    shorter_side = round(MARGIN * image_size)
    sampled = files[np.unique(np.linspace(0, len(files) - 1, _SAMPLED).astype(int))]
    with naming_unreadable(lambda: sampled):
        mean = np.mean([pixels.size for pixels in _small_images(sampled, shorter_side)])
    return int(mean * len(files))


def _small_images(files: ImageFiles, shorter_side: int):
    """Yields `[H, W, 3]` uint8 arrays in order."""

    def plan(height: tf.Tensor, width: tf.Tensor) -> DecodingPlan:
        return DecodingPlan(largest_shrink(tf.minimum(height, width) / shorter_side))

    def small(path: tf.Tensor) -> tf.Tensor:
        image, _ = decode_as_planned(tf.io.read_file(path), plan, files.max_pixels)
        sides = tf.cast(tf.shape(image)[:2], tf.float32)
        scale = tf.minimum(shorter_side / tf.reduce_min(sides), 1.0)
        wanted = tf.cast(tf.maximum(tf.round(scale * sides), 1.0), tf.int32)
        return tf.cast(tf.round(tf.image.resize(image, wanted, antialias=True)), tf.uint8)

    paths = tf.data.Dataset.from_tensor_slices(files.paths.astype(str))
    return paths.map(as_written(small), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).as_numpy_iterator()


def _decode_all(files: Any, shorter_side: int, estimate: int) -> DecodedImages:
    reserved = np.empty(int(estimate * _RESERVE) + _ALIGNMENT, np.uint8)
    buffer = reserved[-reserved.ctypes.data % _ALIGNMENT :]
    starts, sides = np.zeros(len(files), np.int64), np.zeros((len(files), 2), np.int32)
    end = 0
    with naming_unreadable(lambda: files):
        for row, pixels in enumerate(_small_images(files, shorter_side)):
            starts[row], sides[row] = end, pixels.shape[:2]
            end += pixels.size
            if end > len(buffer):
                raise InputError(
                    "--cache needs images of similar shapes, so that its memory can be foreseen. "
                    f"Received: more than {in_bytes(len(buffer))} where {in_bytes(estimate)} were expected"
                )
            buffer[starts[row] : end] = pixels.ravel()
    with tf.device("CPU"):
        pixels = tf.Variable(tf.experimental.dlpack.from_dlpack(buffer[:end].__dlpack__()), trainable=False)
    return DecodedImages(files.paths, pixels, starts, sides, folder=files.folder, max_pixels=files.max_pixels)
