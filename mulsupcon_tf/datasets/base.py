"""What every dataset gives to the rest of the package: named splits of inputs, labels and, where known, truth."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from mulsupcon_tf.datasets.fixed_views import FixedViews
from mulsupcon_tf.utils.image_limits import MAX_IMAGE_PIXELS

SPLIT_NAMES = ("train", "validation", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")  # in any case
FINGERPRINT_VERSION = "2"
FINGERPRINT_PARTS = ("version", "samples", "label names", "labels", "inputs", "sizes", "distributions")
InputKind = Literal["vector", "image"]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """N encoded images (JPEG, PNG, GIF, BMP or WebP) that stay on disk until a batch needs them.

    Attributes:
        paths: `[N]` object array of `str`, one file a sample.
        folder: what the files are named below; no part of `names`.
        max_pixels: height times width of the largest that is decoded; larger ones count as broken.
    """

    paths: np.ndarray
    folder: str = dataclasses.field(default="", kw_only=True)
    max_pixels: int = dataclasses.field(default=MAX_IMAGE_PIXELS, kw_only=True)

    @classmethod
    def below(cls, folder: pathlib.Path, names: Iterable[str]) -> "ImageFiles":
        """The files that a table or a list names relative to a folder."""
        return cls(np.array([str(folder / name) for name in names], object), folder=str(folder))

    @property
    def names(self) -> list[str]:
        """N paths below `folder`, with forward slashes and composed letters (NFC): the same on every machine."""
        # The path of a file in "." does not begin with it.
        prefix = "" if self.folder in ("", ".") else self.folder.rstrip(os.sep) + os.sep
        return [unicodedata.normalize("NFC", path.removeprefix(prefix).replace(os.sep, "/")) for path in self.paths]

    def stamps(self) -> list[tuple[int, int]]:
        """N sizes in bytes and times of change in nanoseconds; (-1, -1) where there is no file.

        By one look into each folder: 118,000 files take 0.5 to 2 seconds.
        """
        folders: dict[str, dict[str, tuple[int, int]]] = {}
        stamps = []
        for path in self.paths:
            folder, name = os.path.split(path)
            if folder not in folders:
                folders[folder] = _stamps_by_name(folder or ".")
            stamps.append(folders[folder].get(name, (-1, -1)))
        return stamps

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows) -> "ImageFiles":
        """The files at `rows`: a slice, indices or a boolean mask, as for an array."""
        return ImageFiles(self.paths[rows], folder=self.folder, max_pixels=self.max_pixels)


def files_of(folder: str) -> list[os.DirEntry[str]]:
    """The files of a folder, none where there is no folder; links count that lead to a file, and no pipes."""
    if not os.path.isdir(folder):  # noqa: PTH112 paths are text here
        return []
    with os.scandir(folder) as entries:
        # What is asked last looks at the disk, and is False for a link that leads nowhere or back to itself.
        return [each for each in entries if each.is_file(follow_symlinks=False) or os.path.isfile(each.path)]  # noqa: PTH113


def _stamps_by_name(folder: str) -> dict[str, tuple[int, int]]:
    found = ((entry.name, entry.stat()) for entry in files_of(folder))
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found}


@dataclasses.dataclass(frozen=True)
class Split:
    """One part of a dataset. Labels are in memory; images may stay on disk.

    Attributes:
        inputs: `[N, F]` float32 vectors, `[N, H, W, channels]` uint8 images, or `ImageFiles`.
        labels: `[N, C]` uint8, 0 or 1; or float32 with NaN where it is unknown whether a sample has a label.
        distributions: `[N, C]` float32, the true label distribution (rows sum to 1, a row of zeros for a sample
            without labels), or None where the truth is not known.
        views: versions of the inputs that training draws from in their place, or None.
    """

    inputs: np.ndarray | ImageFiles
    labels: np.ndarray
    distributions: np.ndarray | None = None
    views: FixedViews | None = None

    def __getitem__(self, rows) -> "Split":
        """The samples at `rows`: a slice, indices or a boolean mask, as for an array."""
        distributions = None if self.distributions is None else self.distributions[rows]
        views = None if self.views is None else self.views[rows]
        return Split(self.inputs[rows], self.labels[rows], distributions, views)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def unknown(self) -> np.ndarray:
        """Which labels are unknown, `[N, C]` bool."""
        return np.isnan(self.labels) if self.labels.dtype.kind == "f" else np.zeros(self.labels.shape, bool)

    @property
    def positives(self) -> np.ndarray:
        """`[N, C]` uint8: 1 for a label that a sample is known to have."""
        return self.labels if self.labels.dtype == np.uint8 else (self.labels > 0).astype(np.uint8)

    @property
    def unlabelled(self) -> np.ndarray:
        """`[N]` bool: the samples that have no label as far as is known, without those of which nothing is known."""
        return np.logical_not(self.positives.any(axis=1) | self.unknown.all(axis=1))

    @property
    def frequencies(self) -> np.ndarray:
        """`[C]`: the share of the samples that have a label, of those of which it is known; 0 where it is of none."""
        return self.positives.sum(axis=0) / np.maximum((~self.unknown).sum(axis=0), 1)


@dataclasses.dataclass(frozen=True)
class MultiLabelDataset:
    """A dataset with its three splits.

    Attributes:
        name: as given to `--dataset`.
        kind: "vector" or "image".
        label_names: C names, in the order of the label columns.
        splits: maps "train", "validation" and "test" to their `Split`.
    """

    name: str
    kind: InputKind
    label_names: tuple[str, ...]
    splits: Mapping[str, Split]

    @property
    def num_labels(self) -> int:
        """C."""
        return len(self.label_names)

    @property
    def num_unknown(self) -> int:
        """How many labels of all samples are unknown."""
        return sum(int(split.unknown.sum()) for split in self.splits.values())

    def with_known_positives(self) -> "MultiLabelDataset":
        """The same data for what looks at positives alone: an unknown label is 0."""
        splits = {name: dataclasses.replace(split, labels=split.positives) for name, split in self.splits.items()}
        return dataclasses.replace(self, splits=splits) if self.num_unknown else self

    @property
    def on_disk(self) -> bool:
        """Whether the samples are image files, which are read when they are needed."""
        return isinstance(self.splits["train"].inputs, ImageFiles)

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of one sample: `(F,)` or `(H, W, channels)`; H and W of image files are None, each has its own."""
        inputs = self.splits["train"].inputs
        return (None, None, 3) if isinstance(inputs, ImageFiles) else tuple(inputs.shape[1:])

    @property
    def train_features(self) -> np.ndarray | None:
        """`[N, F]` training vectors; None for images."""
        inputs = self.splits["train"].inputs
        return inputs if self.kind == "vector" and isinstance(inputs, np.ndarray) else None

    def fingerprint(self) -> str:
        """What the data are, in one line that tells what has changed: parts separated by colons, `FINGERPRINT_PARTS`.

        Image files count by their names below their folder and their sizes, so that the folder may move. Their contents are
        not read: for many photos that would take as long as an epoch.
        """
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        splits = [self.splits[name] for name in SPLIT_NAMES]
        inputs = [split.inputs for split in splits]
        files = [each for each in inputs if isinstance(each, ImageFiles)]
        parts = {
            "version": FINGERPRINT_VERSION,
            "samples": "/".join(str(len(split)) for split in splits),
            "label names": _short_hash(_text([*self.label_names])),
            "labels": _short_hash(*(split.labels for split in splits)),
            "inputs": _short_hash(*(_text(each.names) if isinstance(each, ImageFiles) else each for each in inputs)),
            "sizes": _short_hash(*(_text([size for size, _ in each.stamps()]) for each in files)),
            "distributions": _short_hash(*(each.distributions for each in splits if each.distributions is not None)),
        }
        return ":".join(parts[name] for name in FINGERPRINT_PARTS)

    def earlier_fingerprint(self) -> str:
        """Version 1, by which runs without a version are compared: no distributions, of image files the bare names."""
        digest = hashlib.sha256("\n".join(self.label_names).encode())
        for name in SPLIT_NAMES:
            split = self.splits[name]
            digest.update(np.ascontiguousarray(split.labels).tobytes())
            if isinstance(split.inputs, ImageFiles):
                digest.update("\n".join(os.path.basename(path) for path in split.inputs.paths).encode())  # noqa: PTH119
            else:
                digest.update(np.ascontiguousarray(split.inputs).tobytes())
        return digest.hexdigest()[:16]


def _text(values: list) -> bytes:
    return json.dumps(values).encode()


def _short_hash(*contents: bytes | np.ndarray) -> str:
    digest = hashlib.sha256()
    for content in contents:
        if isinstance(content, np.ndarray):
            digest.update(f"{content.shape} {content.dtype}".encode())
            digest.update(np.ascontiguousarray(content).data)
        else:
            digest.update(content)
    return digest.hexdigest()[:12]
