"""What every dataset gives to the rest of the package: named splits of inputs, labels and, where known, truth."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

SPLIT_NAMES = ("train", "validation", "test")
InputKind = Literal["vector", "image"]


@dataclasses.dataclass(frozen=True)
class Split:
    """One part of a dataset, in memory.

    Attributes:
        inputs: `[N, F]` float32 vectors, or `[N, H, W, channels]` uint8 images.
        labels: `[N, C]` uint8, 0 or 1.
        distributions: `[N, C]` float32, the true label distribution (rows sum to 1, a row of zeros for a sample
            without labels), or None where the truth is not known.
    """

    inputs: np.ndarray
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
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample: `(F,)` or `(H, W, channels)`."""
        return tuple(self.splits["train"].inputs.shape[1:])
