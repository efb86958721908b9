"""The names that `--dataset` knows, and the one function that turns a name into data."""

import dataclasses
import importlib

from mulsupcon_tf.datasets.base import InputKind, MultiLabelDataset
from mulsupcon_tf.datasets.checking import nearest
from mulsupcon_tf.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class _Entry:
    """Where the loader of a dataset lives; imported on first use, so that `--help` stays quick.

    Attributes:
        loader: "module:function" below this package; called as `function(name, data_dir, seed)`.
        kind: "vector" or "image", or None where only the files tell.
    """

    loader: str
    kind: InputKind | None


_MULAN = _Entry("mulan:load_mulan", "vector")
_ENTRIES = {
    "digits": _Entry("digits:load_digit_scenes", "image"),
    "scene": _MULAN,
    "yeast": _MULAN,
    "emotions": _MULAN,
    "corel5k": _MULAN,
    "delicious": _MULAN,
    "enron": _MULAN,
    "bibtex": _MULAN,
    "medical": _MULAN,
    "bookmarks": _MULAN,
    "mediamill": _MULAN,
    "tmc2007-500": _MULAN,
    "cal500": _MULAN,
    "birds": _MULAN,
    "genbase": _MULAN,
    "coco": _Entry("coco:load_coco", "image"),
    "voc2007": _Entry("voc:load_voc", "image"),
    "voc2012": _Entry("voc:load_voc", "image"),
    "nuswide": _Entry("nuswide:load_nuswide", "image"),
    "mirflickr": _Entry("mirflickr:load_mirflickr", "image"),
    "csv": _Entry("image_csv:load_csv", "image"),
    "arff": _Entry("arff:load_arff", "vector"),
    "ldl": _Entry("ldl:load_ldl", "vector"),
    "hdf5": _Entry("arrays:load_hdf5", None),
    "npz": _Entry("arrays:load_npz", None),
}


def dataset_names() -> tuple[str, ...]:
    """All names that `load_dataset` accepts."""
    return tuple(_ENTRIES)


def dataset_kind(name: str) -> InputKind | None:
    """Tells without reading anything whether a dataset holds vectors or images.

    Args:
        name: one of `dataset_names()`.

    Returns:
        "vector", "image", or None where only the files tell (`hdf5`, `npz`).

    Raises:
        InputError: the name is unknown.
    """
    return _entry(name).kind


def load_dataset(name: str, *, data_dir: str | None, seed: int = 0) -> MultiLabelDataset:
    """Loads a dataset with its train, validation and test split; image files stay on disk.

    Args:
        name: one of `dataset_names()`.
        data_dir: folder of the files; for `ldl` also the file. `digits` needs none; the named Mulan sets are
            downloaded without one where their checksums are known.
        seed: of the data itself: which scenes `digits` draws, which samples are carved off where a split is missing
            (see `splitting`). It is not the seed of training: left at 0, every run sees the same data.

    Returns:
        The dataset, checked: finite inputs, labels 0 or 1, no empty split, every label positive somewhere.

    Raises:
        InputError: unknown name, missing or unreadable files, or data that break a rule above.
    """
    module, function = _entry(name).loader.split(":")
    load = getattr(importlib.import_module(f"mulsupcon_tf.datasets.{module}"), function)
    return load(name, data_dir, seed)


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        raise InputError(
            f"a dataset must be one of {', '.join(_ENTRIES)}. "
            f"Received: {name!r} (nearest: {nearest(name.lower(), _ENTRIES)!r})"
        )
    return _ENTRIES[name]
