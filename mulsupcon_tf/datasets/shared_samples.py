"""Samples that stand in two splits: a few are reported, copies of a split are refused.

A file given twice, or one that holds both splits, makes validation or test samples of samples that were trained on, and
every score a lie. But equal rows are also in real data: of the official test sets of Mulan, 4 of scene's 1,196 samples, 55
of enron's 579 and 783 of delicious's 3,185 have exactly the features of a training sample, and three quarters of genbase's
without its column of names. The rows of one split repeat each other as often there. So a split counts as a copy where more
than half of it stands in another split beyond what these repeats foretell, and by no chance.
"""

import functools
import itertools
import logging
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np

from mulsupcon_tf.datasets.base import SPLIT_NAMES, ImageFiles, Split
from mulsupcon_tf.utils.errors import InputError

_MOST = 0.5
_MOST_LINKS = 40  # that follow each other, as on Linux
_EVIDENCE = 10.0  # in nats: less likely than 1 in 20,000; five rows without repeats have it

_logger = logging.getLogger("mulsupcon_tf")


def require_separate_splits(name: str, splits: Mapping[str, Split], drawn: Collection[str] = ()) -> None:
    """Checks that no split is made of samples of another; a smaller number of them is a warning.

    Args:
        name: of the dataset, for messages.
        splits: "train", "validation" and "test", of the same kind. Vectors and images in memory are held against each
            other by content, image files by the path that they have when links are followed.
        drawn: splits that were drawn from another: samples that they share are equal within the files.

    Raises:
        InputError: an image file is in two splits, or one that was not drawn is largely a copy of samples of another.
    """
    samples = {split: _identities(splits[split].inputs) for split in SPLIT_NAMES}
    counts = []
    pairs = [pair[::-1] for pair in itertools.combinations(SPLIT_NAMES, 2)]
    for inner, outer in (*pairs, *(pair[::-1] for pair in pairs)):
        shared = np.isin(samples[inner], samples[outer])
        found, count = int(shared.sum()), len(shared)
        shared_part = f"{found} of {count} samples of {inner} are also in {outer}"
        given = inner not in drawn and outer not in drawn
        inputs = splits[inner].inputs
        file = f", such as {inputs.paths[shared][0]}" if found and isinstance(inputs, ImageFiles) else ""
        if file or (given and _is_copy(found / count, samples[inner], samples[outer])):
            raise InputError(
                f"the splits of a dataset must not share samples. Received: {shared_part} of {name!r}{file}"
            )
        if found and (inner, outer) in pairs:
            counts.append(shared_part)
    if counts:
        _logger.warning("%s: by their inputs, %s", name, "; ".join(counts))


def _identities(inputs: np.ndarray | ImageFiles) -> np.ndarray:
    """`[N]` hashes, equal for equal samples."""
    keys = _real_paths(inputs.paths) if isinstance(inputs, ImageFiles) else (row.tobytes() for row in inputs)
    return np.fromiter(map(hash, keys), np.int64, len(inputs))


def _real_paths(paths: Iterable[str]) -> Iterator[str]:
    """The paths without links, by one look into each folder: to follow 120,000 files one by one takes ten seconds."""

    @functools.cache
    def real_folder(folder: str) -> tuple[str, set[str]]:
        return os.path.realpath(folder), _links_in(folder or ".")

    for path in paths:
        followed = path
        for _ in range(_MOST_LINKS):
            folder, name = os.path.split(followed)
            real, links = real_folder(folder)
            followed = os.path.join(real, name)  # noqa: PTH118 paths are text here
            if name not in links:
                break
            followed = os.path.join(real, os.readlink(followed))  # noqa: PTH115, PTH118
        yield followed


def _links_in(folder: str) -> set[str]:
    if not os.path.isdir(folder):  # noqa: PTH112 paths are text here
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_symlink()}


def _is_copy(share: float, inner: np.ndarray, outer: np.ndarray) -> bool:
    """Whether the share of one split's identities that stand in another's is more than half, and more than chance.

    By chance a sample stands in the other split as often as a sample has an equal within its own: p. That k of n do then
    has a probability of at most exp(−n · KL(k/n ‖ p)), Chernoff's bound; n is of the smaller split, by which p is known.
    """
    chance = max(_share_of_repeats(inner), _share_of_repeats(outer))
    if share - chance <= _MOST * (1 - chance):
        return False
    divergence = share * math.log(share / chance)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - chance))
    return min(len(inner), len(outer)) * divergence > _EVIDENCE


def _share_of_repeats(identities: np.ndarray) -> float:
    """Of the samples that have an equal in the same split; never 0, since that of a few samples proves little."""
    _, counts = np.unique(identities, return_counts=True)
    return (counts[counts > 1].sum() + 0.5) / (len(identities) + 1)
