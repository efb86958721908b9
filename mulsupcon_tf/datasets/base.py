"""What every dataset gives to the rest of the package: named splits of inputs, labels and, where known, truth."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import Literal

import numpy as np

from mulsupcon_tf.image_limits import MAX_IMAGE_PIXELS

SPLIT_NAMES = ("train", "validation", "test")
InputKind = Literal["vector", "image"]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """N encoded images (JPEG, PNG, GIF, BMP or WebP) that stay on disk until a batch needs them.

    Attributes:
        paths: `[N]` object array of `str`, one file a sample.
        max_pixels: height times width of the largest that is decoded; larger ones count as broken.
    """

    paths: np.ndarray
    max_pixels: int = dataclasses.field(default=MAX_IMAGE_PIXELS, kw_only=True)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows) -> "ImageFiles":
        """The files at `rows`: a slice, indices or a boolean mask, as for an array."""
        return ImageFiles(self.paths[rows], max_pixels=self.max_pixels)


@dataclasses.dataclass(frozen=True)
class Split:
    """One part of a dataset. Labels are in memory; images may stay on disk.

    Attributes:
        inputs: `[N, F]` float32 vectors, `[N, H, W, channels]` uint8 images, or `ImageFiles`.
        labels: `[N, C]` uint8, 0 or 1.
        distributions: `[N, C]` float32, the true label distribution (rows sum to 1, a row of zeros for a sample
            without labels), or None where the truth is not known.
    """

    inputs: np.ndarray | ImageFiles
    labels: np.ndarray
    distributions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


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
        """Short hash of label names, labels and inputs; of image files the names count, not the contents."""
        digest = hashlib.sha256("\n".join(self.label_names).encode())
        for name in SPLIT_NAMES:
            split = self.splits[name]
            digest.update(np.ascontiguousarray(split.labels).tobytes())
            if isinstance(split.inputs, ImageFiles):
                digest.update("\n".join(os.path.basename(path) for path in split.inputs.paths).encode())  # noqa: PTH119
            else:
                digest.update(np.ascontiguousarray(split.inputs).tobytes())
        return digest.hexdigest()[:16]
