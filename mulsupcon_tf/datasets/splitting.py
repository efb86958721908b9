"""Fills in the splits that files do not have, and finishes a dataset.

Which split a sample falls into is a function of that sample alone, so that samples which are added, left out or listed in
another order move no other: of an image file its name counts, of a row of an array the numbers in it. What is drawn by
number instead moves nearly everything as soon as there is one sample more, and a model is then judged on what it learnt.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from mulsupcon_tf.datasets.base import ImageFiles, InputKind, MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import check_dataset
from mulsupcon_tf.datasets.label_lists import partial_labels
from mulsupcon_tf.utils.errors import InputError

_logger = logging.getLogger("mulsupcon_tf")
VALIDATION_FRACTION = 0.2  # of train, where there is no validation split
TEST_FRACTION = 0.25  # of everything, where there is one undivided file
_FRACTIONS = {"test": TEST_FRACTION, "validation": VALIDATION_FRACTION}  # in the order in which they are drawn
LEAST_SHARE = 1e-6  # of a label that a sample has, however little of it the truth sees


def split_off(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Draws a share of the samples without replacement.

    Args:
        split: N samples.
        fraction: of N to draw, rounded, at least one sample.
        seed: the same seed and N draw the same samples.

    Returns:
        What remains, and what was drawn; both in the order of `split`.
    """
    drawn = np.zeros(len(split), bool)
    count = max(1, round(fraction * len(split)))
    drawn[np.random.default_rng(seed).permutation(len(split))[:count]] = True
    return split[~drawn], split[drawn]


def divide_by_hash(split: Split, missing: Sequence[str], seed: int) -> dict[str, Split]:
    """Gives each sample its split by its own hashes, whatever others there are.

    A sample is test where its hash for test is below `TEST_FRACTION`, else validation where its hash for validation is
    below `VALIDATION_FRACTION`, else train. Few samples may leave a split empty: it then gets that with the lowest hash
    for it from the split with most of them, which is said in a warning, since more samples may move this one.

    Args:
        split: N samples.
        missing: "test", "validation" or both, in this order.
        seed: other seeds give other hashes.

    Returns:
        "train" and the missing splits; samples in the order of `split`, equal ones in one split. One is empty where there
        are fewer different samples than splits.
    """
    parts = ["train", *missing]
    hashes = {part: sample_hashes(split.inputs, f"{part} {seed}") for part in parts}
    places = np.full(len(split), "train", object)
    for part in reversed(missing):
        places[hashes[part] < _FRACTIONS[part]] = part
    for part in parts:
        sizes = {other: len(np.unique(hashes[part][places == other])) for other in parts}
        largest = max(parts, key=lambda other: sizes[other])
        if sizes[part] == 0 and sizes[largest] > 1:
            lowest = hashes[part][places == largest].min()
            places[(places == largest) & (hashes[part] == lowest)] = part
            _logger.warning(
                "none of so few samples (%d) falls into %s, so one of %s is put there; more samples may move it",
                len(split),
                part,
                largest,
            )
    return {part: split[places == part] for part in parts}


def sample_hashes(inputs: np.ndarray | ImageFiles, salt: str) -> np.ndarray:
    """`[N]` float64 in [0, 1), as if drawn at random: for equal samples the same, on every machine.

    Args:
        inputs: N samples. An image file counts by its name below its folder, a row of an array by its numbers.
        salt: other salts give other numbers.
    """
    if isinstance(inputs, ImageFiles):
        samples = [name.encode(errors="surrogatepass") for name in inputs.names]
    else:
        # Bytes of one order, and -0.0 is 0.0.
        rows = (inputs + 0).astype("<f4") if inputs.dtype.kind == "f" else inputs
        samples = [row.tobytes() for row in rows]
    digests = [hashlib.sha256(f"{salt}\n".encode() + sample).digest() for sample in samples]
    return np.array([int.from_bytes(digest[:6], "big") / 2**48 for digest in digests])


def stratified_share(split: Split, fraction: float, seed: int) -> Split:
    """A share of the samples in which each label keeps its frequency as well as its count allows.

    Iterative stratification [1]: again and again the label with the fewest samples left to hand out is served, and each
    of its samples goes to the side that still lacks this label most.

    Args:
        split: N samples.
        fraction: of N to keep, above 0; N · fraction is met up to rounding, at least one sample.
        seed: of the order of the samples and of ties.

    Returns:
        The kept samples, in the order of `split`.

    [1] Sechidis, Tsoumakas, Vlahavas, On the Stratification of Multi-Label Data, ECML PKDD 2011.
    """
    rng = np.random.default_rng(seed)
    labels = split.positives.astype(bool)
    keep = share_size(len(labels), fraction)
    room = np.array([keep, len(labels) - keep])  # what the kept side and the other may still take
    wanted = np.array([fraction, 1 - fraction])[:, None] * labels.sum(axis=0)
    waiting, kept = np.ones(len(labels), bool), np.zeros(len(labels), bool)
    while (left := labels[waiting].sum(axis=0)).any():
        rarest = int(np.argmin(np.where(left > 0, left, len(labels) + 1)))
        for row in rng.permutation(np.flatnonzero(waiting & labels[:, rarest])):
            lack = np.where(room > 0, wanted[:, rarest], -np.inf)
            # Of two that lack as much, the side with more room, then chance.
            side = int((lack[1], room[1], rng.random()) > (lack[0], room[0], 0.5))
            room[side] -= 1
            wanted[side] -= labels[row]
            kept[row], waiting[row] = side == 0, False
    kept[rng.permutation(np.flatnonzero(waiting))[: room[0]]] = True  # samples without labels
    return split[kept]


def with_whole_train(dataset: MultiLabelDataset) -> MultiLabelDataset:
    """The dataset with train and validation together as its training split; validation is then a part of train."""
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    if isinstance(train.inputs, ImageFiles) and isinstance(validation.inputs, ImageFiles):
        paths = np.concatenate([train.inputs.paths, validation.inputs.paths])
        inputs: np.ndarray | ImageFiles = dataclasses.replace(train.inputs, paths=paths)
    else:
        inputs = np.concatenate([train.inputs, validation.inputs])
    distributions = None
    if train.distributions is not None and validation.distributions is not None:
        distributions = np.concatenate([train.distributions, validation.distributions])
    views = None
    if train.views is not None and validation.views is not None:
        views = train.views.followed_by(validation.views)
    whole = Split(inputs, np.concatenate([train.labels, validation.labels]), distributions, views)
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": whole})


def share_size(count: int, fraction: float | None) -> int:
    """How many of so many samples a `stratified_share` keeps; all for None."""
    return count if fraction is None else max(1, round(fraction * count))


def with_share_of_train(dataset: MultiLabelDataset, fraction: float | None, seed: int) -> MultiLabelDataset:
    """The dataset with a `stratified_share` of its training split, or all of it for None; validation and test stay whole."""
    if fraction is None:
        return dataset
    train = _with_labels_of_its_own_kind(stratified_share(dataset.splits["train"], fraction, seed))
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": train})


def finish_dataset(
    name: str,
    kind: InputKind,
    label_names: tuple[str, ...],
    parts: Mapping[str, Split],
    seed: int,
    *,
    published: bool = False,
) -> MultiLabelDataset:
    """Makes a checked dataset of the parts that were found.

    Args:
        name: as given to `--dataset`.
        kind: "vector" or "image".
        label_names: C names.
        parts: "train", and "validation" and "test" where they exist. Without "test", about 25% of train become it;
            without "validation", about 20% of the train that is left: see `divide_by_hash`.
        seed: of these draws.
        published: the samples will never be others, and tables of results need the same number of them in each split:
            draw exact shares by number.

    Raises:
        InputError: see `checking.check_dataset`.
    """
    splits = dict(parts)
    missing = [part for part in _FRACTIONS if part not in splits]
    if published:
        for part in missing:
            splits["train"], splits[part] = split_off(splits["train"], _FRACTIONS[part], seed)
    elif missing:
        splits |= divide_by_hash(splits["train"], missing, seed)
    splits = {part: _with_labels_of_its_own_kind(split) for part, split in splits.items()}
    dataset = MultiLabelDataset(name=name, kind=kind, label_names=label_names, splits=splits)
    check_dataset(dataset, drawn=splits.keys() - parts.keys())
    return dataset


def _with_labels_of_its_own_kind(split: Split) -> Split:
    """The split with uint8 labels where it knows all of its own; those that another part lacks made a whole table float32."""
    if split.labels.dtype == np.uint8 or split.unknown.any():
        return split
    return dataclasses.replace(split, labels=partial_labels(split.labels, split.unknown))


def require_true_distributions(dataset: MultiLabelDataset) -> None:
    """Checks that the truth about the training samples is known.

    Raises:
        InputError: it is not.
    """
    if dataset.splits["train"].distributions is None:
        raise InputError(
            "--method=truth needs a dataset with true label distributions, such as digits, coco, ldl, or npz with "
            f"distributions. Received: --dataset={dataset.name}, which has none"
        )


def with_true_distributions_as_labels(dataset: MultiLabelDataset) -> MultiLabelDataset:
    """The dataset, the labels of whose training split say how much of each label there is.

    A row is the true distribution on the labels that the sample has, at least `LEAST_SHARE` each, and 0 elsewhere; it
    need not sum to 1.

    Args:
        dataset: one that `require_true_distributions` lets through.
    """
    train = dataset.splits["train"]
    assert train.distributions is not None
    shares = np.where(train.labels > 0, np.maximum(train.distributions, LEAST_SHARE), 0.0).astype(np.float32)
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": dataclasses.replace(train, labels=shares)})
