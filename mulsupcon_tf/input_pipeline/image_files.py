"""Image files on disk: reading them in the graph, and naming those that cannot be read."""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from mulsupcon_tf.datasets.base import SPLIT_NAMES, ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.input_pipeline.decoding import JPEG_SHRINKS, DecodingPlan, Planner, decode_as_planned, decode_image
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.graphs import as_written
from mulsupcon_tf.utils.image_limits import MAX_IMAGE_PIXELS

ReadImage = Callable[[tf.Tensor, Planner], tuple[tf.Tensor, Any]]


def read_files(files: ImageFiles) -> ReadImage:
    """A graph function of a row and of a plan; it gives what `decoding.decode_as_planned` gives."""
    paths = _on_disk(files)
    return lambda row, plan: decode_as_planned(tf.io.read_file(paths[row]), plan, files.max_pixels)


def _on_disk(files: ImageFiles) -> tf.Tensor:
    """The paths as the disk has them, `[N]`: those that are no UTF-8, of old archives, are text to Python alone."""
    return tf.constant([os.fsencode(path) for path in files.paths], tf.string)


def with_pixel_limit(dataset: MultiLabelDataset, max_pixels: int) -> MultiLabelDataset:
    """The dataset, whose image files count as broken where they are larger than so many pixels, height times width."""
    if not dataset.on_disk:
        return dataset
    splits = {}
    for name, split in dataset.splits.items():
        assert isinstance(split.inputs, ImageFiles)
        files = dataclasses.replace(split.inputs, max_pixels=max_pixels)
        splits[name] = Split(files, split.labels, split.distributions)
    return dataclasses.replace(dataset, splits=splits)


def readable_rows(files: ImageFiles) -> np.ndarray:
    """Decodes all files, in parallel; returns the `[M]` ascending int64 indices of those that are whole images."""
    paths = _on_disk(files)

    def decode(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # At the smallest scale every byte of a JPEG is still read.
        plan = DecodingPlan(tf.constant(JPEG_SHRINKS[-1]))
        image, _ = decode_as_planned(tf.io.read_file(paths[row]), lambda height, width: plan, files.max_pixels)
        return row, tf.size(image)  # without the size nobody would need the image, and it would not be decoded

    sizes = (
        tf.data.Dataset.range(len(files)).map(as_written(decode), num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    )
    return np.array([row for row, _ in sizes.as_numpy_iterator()], np.int64)


def reason_unreadable(path: str, max_pixels: int = MAX_IMAGE_PIXELS) -> str | None:
    """Why a file is no whole image of at most so many pixels, in one line; None if it is one."""
    try:
        decode_image(tf.io.read_file(os.fsencode(path)), max_pixels)
    except tf.errors.OpError as error:
        if pathlib.Path(path).is_file() and not pathlib.Path(path).stat().st_size:
            return "it is empty"
        return decoding_fault(error)
    return None


def decoding_fault(error: tf.errors.OpError) -> str:
    """What TensorFlow says of bytes that it cannot decode, in one line, without the parts of the graph around it."""
    text = " ".join(error.message.split())
    rule = re.search(r"assertion failed: \[([^\]]*, not)\] \[([^\]]*)\]", text)
    if rule:
        return f"{rule[1]} {rule[2]}"
    text = re.sub(r"\{\{.*?\}\}|\[\[.*|\[Op:.*", "", text)
    return re.sub(r'.*(?:File "[^"]*", line \d+, in \S+|<stack traces unavailable>) ', "", text).strip()


@contextlib.contextmanager
def naming_unreadable(inputs: Callable[[], np.ndarray | ImageFiles | None]) -> Iterator[None]:
    """Where a graph fails on a file, which it cannot name, finds that file.

    Args:
        inputs: gives what the graph has read; asked only after a failure.

    Raises:
        InputError: in place of TensorFlow's error, where one of the files is no whole image.
    """
    try:
        yield
    except tf.errors.OpError:
        require_readable(inputs())
        raise


def unreadable_among(files: np.ndarray | ImageFiles | None) -> str | None:
    """The first file that is no whole image, with the reason; None where all are whole, or in memory. All are decoded."""
    if not isinstance(files, ImageFiles):
        return None
    broken = np.setdiff1d(np.arange(len(files)), readable_rows(files))
    if not len(broken):
        return None
    path = files.paths[broken[0]]
    return f"{path} ({reason_unreadable(path, files.max_pixels)})"


def require_readable(files: np.ndarray | ImageFiles | None) -> None:
    """Raises `InputError` where `unreadable_among` finds one."""
    broken = unreadable_among(files)
    if broken is not None:
        raise InputError(
            "each image must be a whole JPEG, PNG, GIF, BMP or WebP; --skip_bad_images leaves the others out. "
            f"Received: {broken}"
        )


def without_unreadable(
    dataset: MultiLabelDataset, listing: pathlib.Path, *, data_dir: str | None, scan: bool
) -> MultiLabelDataset:
    """Leaves out the files that a listing names.

    Args:
        dataset: returned as it is where its samples are in memory.
        listing: one path (below `data_dir` where it lies there), a tab and the reason a line. A path that holds line
            breaks or other signs that do not print stands there as a JSON text.
        data_dir: the dataset's folder; it may have moved since the listing was written.
        scan: where there is no listing yet, decode every file of every split once and write it.

    Raises:
        InputError: no sample of a split is left.
    """
    if not dataset.on_disk or not (scan or listing.exists()):
        return dataset
    if not listing.exists():
        _write_listing(dataset, listing, data_dir)
    lines = listing.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    # As datasets write their paths: `./data` and `data//` are `data` there.
    bad = {str(pathlib.Path(data_dir or "", _from_listing(line.rpartition("\t")[0]))) for line in lines}
    splits, counts = {}, []
    for name in SPLIT_NAMES:
        split = dataset.splits[name]
        assert isinstance(split.inputs, ImageFiles)
        kept = np.array([path not in bad for path in split.inputs.paths], bool)
        if not kept.any():
            raise InputError(f"Each split must have an image that can be read. Received: none in {name}; see {listing}")
        splits[name] = split[kept]
        counts.append(f"{len(kept) - int(kept.sum())} of {len(kept)} in {name}")
    logging.getLogger("mulsupcon_tf").info("images left out as unreadable: %s; see %s", ", ".join(counts), listing)
    return MultiLabelDataset(dataset.name, dataset.kind, dataset.label_names, splits)


def _write_listing(dataset: MultiLabelDataset, listing: pathlib.Path, data_dir: str | None) -> None:
    lines = []
    seen: set[str] = set()  # train may hold the validation images too
    for name in SPLIT_NAMES:
        files = dataset.splits[name].inputs
        assert isinstance(files, ImageFiles)
        files = files[np.array([path not in seen for path in files.paths], bool)]
        seen.update(files.paths)
        for path in files.paths[np.setdiff1d(np.arange(len(files)), readable_rows(files))]:
            below = data_dir is not None and pathlib.Path(path).is_relative_to(data_dir)
            listed = _for_listing(os.path.relpath(path, data_dir) if below else path)
            lines.append(f"{listed}\t{reason_unreadable(path, files.max_pixels)}\n")
    atomic_file.write_text(listing, "".join(lines))


def _for_listing(name: str) -> str:
    return name if name.isprintable() and not name.startswith('"') else json.dumps(name)


def _from_listing(text: str) -> str:
    return json.loads(text) if text.startswith('"') else text
