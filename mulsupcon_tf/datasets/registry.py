"""The names that `--dataset` knows, and the one function that turns a name into data."""

import dataclasses
import importlib
import os

from mulsupcon_tf.datasets.base import InputKind, MultiLabelDataset
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import nearest


@dataclasses.dataclass(frozen=True)
class _Entry:
    """Where the loader of a dataset lives; imported on first use, so that `--help` stays quick.

    Attributes:
        loader: "folder.module:function" below this package; called as `function(name, data_dir, seed, **options)`.
        kind: "vector" or "image", or None where only the files tell.
        options: names of the loader's further arguments, which say how to read.
    """

    loader: str
    kind: InputKind | None
    options: tuple[str, ...] = ()


_MULAN = _Entry("vectors.mulan:load_mulan", "vector")
_ENTRIES = {
    "digits": _Entry("images.digits:load_digit_scenes", "image"),
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
    "coco": _Entry("images.coco:load_coco", "image"),
    "voc2007": _Entry("images.voc:load_voc", "image"),
    "voc2012": _Entry("images.voc:load_voc", "image"),
    "nuswide": _Entry("images.nuswide:load_nuswide", "image"),
    "nuswide21": _Entry("images.nuswide:load_nuswide", "image"),
    "mirflickr": _Entry("images.mirflickr:load_mirflickr", "image"),
    "csv": _Entry("images.image_csv:load_csv", "image", ("label_separator", "min_label_count")),
    "arff": _Entry("vectors.arff:load_arff", "vector"),
    "ldl": _Entry("vectors.ldl:load_ldl", "vector"),
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


def load_dataset(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    label_separator: str | None = None,
    min_label_count: int | None = None,
) -> MultiLabelDataset:
    """Loads a dataset with its train, validation and test split; image files stay on disk.

    Args:
        name: one of `dataset_names()`.
        data_dir: folder of the files; for `ldl` also the file. `digits` reads none; the named Mulan sets are
            downloaded without one where their checksums are known.
        seed: of the data itself: which scenes `digits` draws, which samples are carved off where a split is missing
            (see `splitting`). It is not the seed of training: left at 0, every run sees the same data.
        label_separator: of `csv` only: what separates labels in a cell, such as "," or "space", or ";" for names that
            are whole. None: `;` or another that is unmistakable.
        min_label_count: of `csv` only: leave out labels that fewer training samples carry. None: leave out none.

    Returns:
        The dataset, checked: finite inputs (float32 vectors `[N, F]`, uint8 images `[N, H, W, channels]` or files), labels
        `[N, C]` 0 or 1, or NaN where unknown, no empty split, every label positive somewhere.

    Raises:
        InputError: unknown name, a seed below 0, an option that the dataset does not take or a value that its flag refuses, missing
            or unreadable files, or data that break a rule above.
    """
    entry = _entry(name)
    if seed < 0:
        raise InputError(f"seed must be at least 0. Received: seed={seed}")
    options = {"label_separator": label_separator, "min_label_count": min_label_count}
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if option not in entry.options:
            takers = ", ".join(taker for taker, each in _ENTRIES.items() if option in each.options)
            raise InputError(f"--{option} belongs to --dataset={takers}. Received: --{option}={value} --dataset={name}")
    if min_label_count is not None and min_label_count < 1:
        raise InputError(f"--min_label_count must be at least 1. Received: --min_label_count={min_label_count}")
    module, function = entry.loader.split(":")
    load = getattr(importlib.import_module(f"mulsupcon_tf.datasets.{module}"), function)
    return load(name, None if data_dir is None else os.fspath(data_dir), seed, **given)


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        raise InputError(
            f"a dataset must be one of {', '.join(_ENTRIES)}. "
            f"Received: {name!r} (nearest: {nearest(name.lower(), _ENTRIES)!r})"
        )
    return _ENTRIES[name]
