"""What a dataset is like, in words: the lines that every run begins with, and what `check` says before anything is trained.

Nothing here is an error. What breaks a rule is refused while the dataset is read, see `checking`.
"""

import collections
import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mulsupcon_tf.datasets.base import IMAGE_SUFFIXES, SPLIT_NAMES, ImageFiles, MultiLabelDataset
from mulsupcon_tf.datasets.checking import listed
from mulsupcon_tf.datasets.folders import visible_files
from mulsupcon_tf.utils.wording import counted

FEWEST_LEARNT = 10  # positives of a label in train
FEWEST_JUDGED = 5  # positives of a label in validation or test
FEWEST_IMAGES = 300  # of train, for a network from random weights
FEWEST_SAMPLES = 50  # of validation and test
BAR_WIDTH = 30
MOST_BARS = 60
_SEPARATORS = ",|;"


def summary_lines(dataset: MultiLabelDataset) -> list[str]:
    """Three lines about a dataset: its size, its labels, and what its scores hang on."""
    sizes = {name: len(dataset.splits[name]) for name in SPLIT_NAMES}
    positives = _positives(dataset)["train"]
    most, least = int(positives.argmax()), int(positives.argmin())
    names = dataset.label_names
    few = int((positives < FEWEST_LEARNT).sum())
    ends = f"{names[most]!r} is the most frequent ({positives[most]}), {names[least]!r} the rarest ({positives[least]})"
    if len(names) == 1:
        ends = f"{names[0]!r} is the only one ({positives[0]})"
    return [
        f"data: {dataset.name}, {_sizes(dataset)}, {counted(dataset.num_labels, 'label')}, {_labels_per_sample(dataset)}",
        f"labels in train: {ends}; {few} of {len(names)} with fewer than {FEWEST_LEARNT} samples",
        f"one sample is {_points_of_one(sizes['validation'])} points of precision@1 on validation, {_points_of_one(sizes['test'])} on "
        "test; python -m mulsupcon_tf.check says more of the data",
    ]


def label_table(dataset: MultiLabelDataset) -> list[str]:
    """The labels with their positives in each split and a bar for those in train, the most frequent first.

    Of more than `MOST_BARS` labels the most frequent and the rarest half of that number are shown.
    """
    positives = _positives(dataset)
    order = np.argsort(-positives["train"], kind="stable")
    width = max(5, *(len(name) for name in dataset.label_names))
    most = max(int(positives["train"].max()), 1)
    lines = [f"{'label':<{width}}{'train':>8}{'validation':>12}{'test':>8}"]
    hidden = len(order) - MOST_BARS
    for rank, label in enumerate(order):
        if 0 <= rank - MOST_BARS // 2 < hidden:
            if rank == MOST_BARS // 2:
                lines.append(f"... {hidden} more labels ...")
            continue
        train, validation, test = (int(positives[name][label]) for name in SPLIT_NAMES)
        bar = "#" * -(-BAR_WIDTH * train // most)
        lines.append(f"{dataset.label_names[label]:<{width}}{train:>8}{validation:>12}{test:>8}  {bar}".rstrip())
    return lines


def overview(dataset: MultiLabelDataset) -> list[str]:
    """How many samples there are, how many labels they carry, and how many are unknown."""
    unknown = ", ".join(f"{int(dataset.splits[name].unknown.sum())} in {name}" for name in SPLIT_NAMES)
    most = max(int(split.positives.sum(axis=1).max()) for split in dataset.splits.values())
    per_split = ", ".join(f"{int(dataset.splits[name].unlabelled.sum())} in {name}" for name in SPLIT_NAMES)
    return [
        f"{dataset.name}: {_sizes(dataset)}",
        f"{counted(dataset.num_labels, 'label')}: {_labels_per_sample(dataset)}, at most {most}",
        f"without any label, which says that none applies: {per_split}",
        *([f"unknown labels, left out of losses and metrics: {unknown}"] if dataset.num_unknown else []),
    ]


def findings(dataset: MultiLabelDataset, *, pretrained_weights: bool = False) -> list[str]:
    """What to look at before a training.

    Args:
        dataset: a checked dataset.
        pretrained_weights: whether the network starts from weights that have seen other images.

    Returns:
        A sentence each; empty where nothing stands out.
    """
    dataset = dataset.with_known_positives()
    return [
        *_odd_names(dataset),
        *_one_label(dataset),
        *_rare_labels(dataset),
        *_too_little(dataset, pretrained_weights),
        *_copies(dataset),
    ]


def unlisted_images(dataset: MultiLabelDataset, folder: str) -> list[str]:
    """The image files below a folder that no sample names, as paths below it, in order."""
    root = pathlib.Path(folder)
    named = {os.path.normpath(path) for split in dataset.splits.values() for path in _paths(split.inputs)}
    found = visible_files(root, IMAGE_SUFFIXES)
    return [str(path.relative_to(root)) for path in found if os.path.normpath(path) not in named]


def _positives(dataset: MultiLabelDataset) -> dict[str, np.ndarray]:
    return {name: dataset.splits[name].positives.sum(axis=0, dtype=np.int64) for name in SPLIT_NAMES}


def _sizes(dataset: MultiLabelDataset) -> str:
    sizes = {name: len(dataset.splits[name]) for name in SPLIT_NAMES}
    return f"{sum(sizes.values())} {dataset.kind}s ({', '.join(f'{size} {name}' for name, size in sizes.items())})"


def _labels_per_sample(dataset: MultiLabelDataset) -> str:
    count = sum(int(split.positives.sum(dtype=np.int64)) for split in dataset.splits.values())
    return f"{count / sum(map(len, dataset.splits.values())):.1f} a sample"


def _odd_names(dataset: MultiLabelDataset) -> Iterator[str]:
    odd = np.array([any(sign in name for sign in _SEPARATORS) for name in dataset.label_names])
    if odd.any():
        hint = "; --label_separator splits those of a column 'labels'" if dataset.name == "csv" else ""
        names = listed(dataset.label_names, np.flatnonzero(odd))
        yield f"names that hold one of {' '.join(_SEPARATORS)} may be several labels: {names}{hint}"


def _one_label(dataset: MultiLabelDataset) -> Iterator[str]:
    if max(split.labels.sum(axis=1).max() for split in dataset.splits.values()) <= 1:
        hint = "; where a cell of the table holds several, --label_separator splits it" if dataset.name == "csv" else ""
        yield f"no sample has more than one label: methods for several labels have nothing to gain{hint}"


def _rare_labels(dataset: MultiLabelDataset) -> Iterator[str]:
    positives = _positives(dataset)
    consequences = {
        "train": (FEWEST_LEARNT, "they are hardly learnt"),
        "validation": (FEWEST_JUDGED, "what is chosen by them is chance"),
        "test": (FEWEST_JUDGED, "their scores are chance"),
    }
    for name, (fewest, consequence) in consequences.items():
        rare = np.flatnonzero(positives[name] < fewest)
        if len(rare):
            names = listed(dataset.label_names, rare)
            yield f"labels with fewer than {fewest} samples in {name}, {len(rare)} of {dataset.num_labels}: {names}; {consequence}"
    everywhere = np.flatnonzero(positives["train"] == len(dataset.splits["train"]))
    if len(everywhere):
        yield f"labels that every sample of train carries, which teach nothing: {listed(dataset.label_names, everywhere)}"


def _too_little(dataset: MultiLabelDataset, pretrained_weights: bool) -> Iterator[str]:
    train = len(dataset.splits["train"])
    if dataset.kind == "image" and not pretrained_weights and train < FEWEST_IMAGES:
        yield (
            f"{train} images of train are too few for a network that starts from random weights: "
            "--backbone_weights, best with --freeze_backbone, needs fewer"
        )
    consequences = {"validation": "the best epoch and the thresholds are chosen on", "test": "the result is judged on"}
    for name, consequence in consequences.items():
        size = len(dataset.splits[name])
        if size < FEWEST_SAMPLES:
            yield f"{consequence} {counted(size, 'sample')} of {name}: one of them is {_points_of_one(size)} points of precision@1"


def _points_of_one(size: int) -> str:
    """How far one of so many samples moves a percentage."""
    return f"{100 / size:.2g}" if size > 1 else "100"  # not 1e+02


def _copies(dataset: MultiLabelDataset) -> Iterator[str]:
    """Samples of equal content, within and across splits."""
    samples = [(name, row) for name in SPLIT_NAMES for row in range(len(dataset.splits[name]))]
    by_content: dict[Any, list[tuple[str, int]]] = collections.defaultdict(list)
    contents = itertools.chain.from_iterable(_contents(dataset.splits[name].inputs) for name in SPLIT_NAMES)
    for sample, content in zip(samples, contents, strict=True):
        by_content[content].append(sample)
    groups = [group for content, group in by_content.items() if content is not None and len(group) > 1]
    if not groups:
        return
    across = [group for group in groups if len({name for name, _ in group}) > 1]
    contradicting = [group for group in groups if len({_labels_of(dataset, *sample) for sample in group}) > 1]
    extra = sum(map(len, groups)) - len(groups)
    example = (across or contradicting or groups)[0]
    names = " = ".join(_name_of(dataset, *sample) for sample in example[:3])
    yield (
        f"copies: {counted(extra, 'sample')} with the content of another; {counted(len(across), 'content')} in more than one "
        f"split, {len(contradicting)} with different labels; such as {names}"
    )


def _labels_of(dataset: MultiLabelDataset, name: str, row: int) -> bytes:
    return dataset.splits[name].labels[row].tobytes()


def _name_of(dataset: MultiLabelDataset, name: str, row: int) -> str:
    inputs = dataset.splits[name].inputs
    return f"{inputs[[row]].names[0] if isinstance(inputs, ImageFiles) else f'row {row}'} ({name})"


def _contents(inputs: np.ndarray | ImageFiles) -> Iterator[Any]:
    """What tells contents apart, a sample each; None for a file that cannot be read."""
    if not isinstance(inputs, ImageFiles):
        yield from (hashlib.sha256(row.tobytes()).digest() for row in inputs)
        return
    for path in inputs.paths:
        try:
            with open(path, "rb") as file:  # noqa: PTH123 paths are text here
                yield hashlib.file_digest(file, "sha256").digest()
        except OSError:
            yield None


def _paths(inputs: np.ndarray | ImageFiles) -> Iterable[str]:
    return inputs.paths if isinstance(inputs, ImageFiles) else ()
