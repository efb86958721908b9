"""Fills in the splits that files do not have, and finishes a dataset."""

from collections.abc import Mapping

import numpy as np

from mulsupcon_tf.datasets.base import InputKind, MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import check_dataset

VALIDATION_FRACTION = 0.2  # of train, where there is no validation split
TEST_FRACTION = 0.25  # of everything, where there is one undivided file


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
    return _rows(split, ~drawn), _rows(split, drawn)


def finish_dataset(
    name: str, kind: InputKind, label_names: tuple[str, ...], parts: Mapping[str, Split], seed: int
) -> MultiLabelDataset:
    """Makes a checked dataset of the parts that were found.

    Args:
        name: as given to `--dataset`.
        kind: "vector" or "image".
        label_names: C names.
        parts: "train", and "validation" and "test" where they exist. Without "test", 25% of train become it; without
            "validation", 20% of the train that is left.
        seed: of these draws.

    Raises:
        InputError: see `checking.check_dataset`.
    """
    splits = dict(parts)
    for missing, fraction in (("test", TEST_FRACTION), ("validation", VALIDATION_FRACTION)):
        if missing not in splits:
            splits["train"], splits[missing] = split_off(splits["train"], fraction, seed)
    dataset = MultiLabelDataset(name=name, kind=kind, label_names=label_names, splits=splits)
    check_dataset(dataset)
    return dataset


def _rows(split: Split, chosen: np.ndarray) -> Split:
    distributions = None if split.distributions is None else split.distributions[chosen]
    return Split(split.inputs[chosen], split.labels[chosen], distributions)
