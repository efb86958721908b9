"""Rules that every dataset keeps, whatever it was read from; broken ones name the file or split and the place."""

import logging
import os
import pathlib
import re
from collections.abc import Collection, Sequence

import numpy as np

from mulsupcon_tf.datasets.base import SPLIT_NAMES, ImageFiles, MultiLabelDataset, files_of
from mulsupcon_tf.datasets.label_spelling import as_seen
from mulsupcon_tf.datasets.shared_samples import require_separate_splits
from mulsupcon_tf.utils.errors import InputError

_logger = logging.getLogger("mulsupcon_tf")
_NAMES_SHOWN = 5
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def listed(names: Sequence[str], indices: np.ndarray) -> str:
    """Returns the names at `indices` for a message, the first five of them and how many more there are."""
    shown = ", ".join(repr(names[index]) for index in indices[:_NAMES_SHOWN])
    more = len(indices) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def existing_folder(data_dir: str | None, dataset: str) -> pathlib.Path:
    """Returns `data_dir` as a path.

    Raises:
        InputError: it is None or no folder.
    """
    if data_dir is None or not pathlib.Path(data_dir).is_dir():
        raise InputError(f"--data_dir must be an existing folder for --dataset={dataset}. Received: {data_dir}")
    return pathlib.Path(data_dir)


def path_inside(folder: pathlib.Path, name: str, where: str) -> pathlib.Path:
    """Returns `folder / name` for a file name that stands in a data file; links on disk are followed as ever.

    Backslashes, which programs on Windows write, count as slashes.

    Raises:
        InputError: the name is empty or absolute, leads out of the folder by `..`, or see `require_text`.
    """
    require_text(name, where)
    path = pathlib.PurePosixPath(name.replace("\\", "/"))
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise InputError(f"an image must be named by a path inside {folder}. Received: {name!r} in {where}")
    return folder / path


def require_text(name: str, where: str) -> None:
    """Checks the name of an image for characters that no text has; spaces of all widths and joined emojis are text.

    Raises:
        InputError: one is a control character or half of a surrogate pair.
    """
    if _NO_TEXT.search(name):
        raise InputError(f"the name of an image must be text without control characters. Received: {name!r} in {where}")


def require_finite(values: np.ndarray, where: str) -> None:
    """Checks `[N, F]` vectors for NaN and infinity.

    Raises:
        InputError: the first such value, with row and column.
    """
    finite = np.isfinite(values)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"features must be finite float32 numbers. "
            f"Received: {values[row, column]} in {where}, row {row}, column {column} (from 0)"
        )


def require_binary(labels: np.ndarray, where: str) -> None:
    """Checks `[N, C]` labels for values other than 0, 1 and, where they are numbers with a fraction, NaN: unknown.

    Raises:
        InputError: the first such value, with row and column.
    """
    binary = (labels == 0) | (labels == 1) | (labels != labels)  # noqa: PLR0124 NaN alone is not itself
    if not binary.all():
        row, column = np.argwhere(~binary)[0]
        raise InputError(
            f"labels must be 0 or 1. Received: {labels[row, column]} in {where}, row {row}, column {column} (from 0)"
        )


def require_known_labels(dataset: MultiLabelDataset, what: str) -> None:
    """Raises `InputError` where labels are unknown.

    Args:
        dataset: the data.
        what: needs to know all, as the beginning of a sentence.
    """
    if dataset.num_unknown:
        raise InputError(
            f"{what} needs labels that are all known. Received: {dataset.num_unknown} unknown in dataset {dataset.name!r}"
        )


def missing_files(files: ImageFiles) -> list[int]:
    """Looks for each file by one look into each folder: asking for 118,000 files one by one takes minutes.

    Returns:
        The positions in `files` of those that are not there, in order; a link that leads nowhere is not.
    """
    present: dict[str, set[str]] = {}
    missing = []
    for position, path in enumerate(files.paths):
        folder, name = os.path.split(path)
        if folder not in present:
            present[folder] = {entry.name for entry in files_of(folder or ".")}
        if name not in present[folder]:
            missing.append(position)
    return missing


def require_existing(files: ImageFiles, where: str) -> None:
    """Checks that each file is there.

    Raises:
        InputError: the first file that is missing, and how many are.
    """
    missing = missing_files(files)
    if missing:
        raise InputError(
            f"every image that is listed must be an existing file. Received: {files.paths[missing[0]]} missing in {where}"
            f"{f', and {len(missing) - 1} more' if len(missing) > 1 else ''}"
        )


def require_distributions(distributions: np.ndarray, where: str, labels: np.ndarray | None = None) -> None:
    """Checks `[N, C]` label distributions: no negative mass, rows that sum to 1 or are all 0.

    Args:
        distributions: what to check.
        where: for messages.
        labels: `[N, C]`, 0 or 1; a row with mass must have some on a label of its sample.

    Raises:
        InputError: the first row that is none, with its index.
    """
    sums = distributions.sum(axis=1, dtype=np.float64)
    proper = (distributions >= 0).all(axis=1) & ((np.abs(sums - 1) < 1e-3) | (sums == 0))
    if not proper.all():
        row = int(np.flatnonzero(~proper)[0])
        raise InputError(
            f"a label distribution must be non-negative and sum to 1, or be all 0. "
            f"Received: sum {sums[row]:.6g}, least value {distributions[row].min():.6g} in {where}, row {row} (from 0)"
        )
    if labels is not None:
        off = distributions.any(axis=1) & ~(distributions * labels).any(axis=1)
        if off.any():
            row = int(np.flatnonzero(off)[0])
            raise InputError(
                f"a label distribution must have mass on a label of its sample, or be all 0. "
                f"Received: mass on other labels alone in {where}, row {row} (from 0)"
            )


def check_dataset(dataset: MultiLabelDataset, drawn: Collection[str] = ()) -> None:
    """Checks a finished dataset; logs how many samples have no label, if any, and which labels a split never shows.

    Args:
        dataset: with all its splits.
        drawn: names of those that were drawn from another, since the files do not have them.

    Raises:
        InputError: a split is missing, empty, of another shape or dtype than `Split` says or than train has; an input
            is not finite, a label neither 0 nor 1, a distribution none; a label has no positive in any split; labels
            are unknown, and none of those that are so for some sample is 0 for another; label
            names are not distinct, empty or no UTF-8; or see `shared_samples.require_separate_splits`.
    """
    if not dataset.label_names:
        raise InputError(f"a dataset must have at least one label. Received: none in dataset {dataset.name!r}")
    if len(set(dataset.label_names)) != dataset.num_labels:
        twice = next(name for name in dataset.label_names if dataset.label_names.count(name) > 1)
        raise InputError(f"label names must be distinct. Received: {twice!r} twice in dataset {dataset.name!r}")
    for name in dataset.label_names:
        if not as_seen(name) or name.encode(errors="replace").decode() != name:
            raise InputError(
                f"a label name must be text that can be written as UTF-8, and not empty. "
                f"Received: {name!a} in dataset {dataset.name!r}"
            )
    for split_name in SPLIT_NAMES:
        _check_split(dataset, split_name)
    require_separate_splits(dataset.name, dataset.splits, drawn)
    positives = {name: dataset.splits[name].positives.sum(axis=0, dtype=np.int64) for name in SPLIT_NAMES}
    never = np.flatnonzero(sum(positives.values()) == 0)
    if len(never):
        raise InputError(
            f"every label must be positive for at least one sample of dataset {dataset.name!r}. "
            f"Received: none for {listed(dataset.label_names, never)}"
        )
    consequences = {"train": ", so it cannot be learnt", "validation": "", "test": ", so it cannot be judged"}
    unseen = [
        f"no positive in {name}{consequence}: {listed(dataset.label_names, absent)}"
        for name, consequence in consequences.items()
        if len(absent := np.flatnonzero(positives[name] == 0))
    ]
    if unseen:
        _logger.warning("%s: %s", dataset.name, "; ".join(unseen))
    if dataset.num_unknown:
        _require_negatives(dataset)
        counts = (f"{int(dataset.splits[name].unknown.sum())} in {name}" for name in SPLIT_NAMES)
        _logger.info("%s: unknown labels, left out of losses and metrics: %s", dataset.name, ", ".join(counts))
    unlabelled = {name: int(split.unlabelled.sum()) for name, split in dataset.splits.items()}
    if any(unlabelled.values()):
        counts = (f"{count} of {len(dataset.splits[name])} in {name}" for name, count in unlabelled.items())
        _logger.info("%s: samples without any label: %s", dataset.name, ", ".join(counts))


def _require_negatives(dataset: MultiLabelDataset) -> None:
    """Refuses tables that write -1 or nothing for 0: without a negative, any model would score 100 % on a label."""
    splits = dataset.splits.values()
    partial = np.any([split.unknown.any(axis=0) for split in splits], axis=0)
    never = np.flatnonzero(partial & ~np.any([(split.labels == 0).any(axis=0) for split in splits], axis=0))
    names = listed(dataset.label_names, never)
    if len(never) == partial.sum():
        raise InputError(
            "labels of which some are unknown (empty, ?, -1 or NaN) must be 0 for some sample: write 0, not -1 or nothing, "
            f"where a sample lacks a label. Received: never 0 in dataset {dataset.name!r}: {names}"
        )
    if len(never):
        _logger.warning(
            "%s: unknown for some samples and 0 for none, so that any model is right about them: %s",
            dataset.name,
            names,
        )


def _check_split(dataset: MultiLabelDataset, split_name: str) -> None:
    where = f"split {split_name!r} of dataset {dataset.name!r}"
    if split_name not in dataset.splits:
        raise InputError(f"a dataset must have the splits {', '.join(SPLIT_NAMES)}. Received: no {where}")
    split = dataset.splits[split_name]
    inputs, labels = split.inputs, split.labels
    if not len(labels):
        raise InputError(f"every split must hold at least one sample. Received: 0 in {where}")
    if isinstance(inputs, ImageFiles) != dataset.on_disk or (dataset.on_disk and dataset.kind != "image"):
        raise InputError(f"inputs must be of one kind in all splits, {dataset.kind}s. Received: another in {where}")
    if not isinstance(inputs, ImageFiles):
        _require_array(dataset, inputs, where)
    partial = labels.dtype == np.float32 and bool(split.unknown.any())
    if labels.shape != (len(inputs), dataset.num_labels) or not (labels.dtype == np.uint8 or partial):
        raise InputError(
            f"labels must be uint8, or float32 where some are unknown (NaN), of shape {(len(inputs), dataset.num_labels)}, "
            f"samples by label names. "
            f"Received: {labels.dtype} {labels.shape} in {where}"
        )
    require_binary(labels, where)
    if isinstance(inputs, ImageFiles):
        require_existing(inputs, where)
    elif dataset.kind == "vector":
        require_finite(inputs, where)
    if split.distributions is not None:
        if split.unknown.any():
            raise InputError(
                f"a sample with a true distribution must have known labels. Received: unknown ones in {where}"
            )
        if split.distributions.shape != labels.shape:
            raise InputError(
                f"distributions must have the shape of the labels, {labels.shape}. "
                f"Received: {split.distributions.shape} in {where}"
            )
        require_distributions(split.distributions, where, labels)


def _require_array(dataset: MultiLabelDataset, inputs: np.ndarray, where: str) -> None:
    dimensions, dtype = {"vector": (2, np.float32), "image": (4, np.uint8)}[dataset.kind]
    if (
        inputs.ndim != dimensions
        or inputs.dtype != dtype
        or 0 in inputs.shape
        or inputs.shape[1:] != dataset.input_shape
    ):
        raise InputError(
            f"{dataset.kind} inputs must be {np.dtype(dtype)} with {dimensions} dimensions and agree with train beyond "
            f"the first, {dataset.input_shape}. Received: {inputs.dtype} {inputs.shape} in {where}"
        )
