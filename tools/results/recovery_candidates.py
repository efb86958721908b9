"""What is held against the true distributions of a test split: ours, controls, and label enhancement."""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np

from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.evaluation.distribution_distances import (
    SMOOTHED_OVER,
    smoothed_label_distribution,
    uniform_label_distribution,
)
from mulsupcon_tf.training.run_directory import RunDirectory

MOST_ENHANCED = 1000  # samples: GLLE holds matrices of (N C)² numbers, ML solves quadratic programmes of N unknowns


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset with true distributions.

    Attributes:
        name: what it is called in tables and run directories.
        dataset: value of `--dataset`.
        data_dir: value of `--data_dir`, or None.
        flags: further flags of its pretrainings.
    """

    name: str
    dataset: str
    data_dir: str | None = None
    flags: tuple[str, ...] = ()


def recovered_by_run(directory: pathlib.Path) -> np.ndarray:
    """Distributions d `[N, C]` of the test samples from a finished pretraining."""
    with np.load(RunDirectory(directory).test_outputs) as outputs:
        return outputs["distribution"].astype(np.float64)


def predicted_by_run(directory: pathlib.Path) -> np.ndarray:
    """What a classifier says of the test samples, taken for distributions `[N, C]`: probabilities over their sum."""
    with np.load(RunDirectory(directory).test_outputs) as outputs:
        probabilities = outputs["probabilities"].astype(np.float64)
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def controls(dataset: MultiLabelDataset, directory: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """What needs no recovery, by name: `[N, C]` for the test samples.

    Args:
        dataset: the data.
        directory: a finished pretraining, whose representations stand for images.
    """
    test = dataset.splits["test"]
    yield "y/|y|", uniform_label_distribution(test.labels)
    yield "1/C", np.full(test.labels.shape, 1 / dataset.num_labels)
    features, labels = _seen(dataset, test, directory)
    smoothed = smoothed_label_distribution(labels, features, min(SMOOTHED_OVER, len(labels) - 1))
    yield "smoothed", smoothed[-len(test) :]


def enhancement_input(dataset: MultiLabelDataset, directory: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Features `[N, F]` and labels `[N, C]` that label enhancement sees, those of the test samples last.

    They are what smoothing sees, but the test samples alone where these would be more than `MOST_ENHANCED`.
    """
    test = dataset.splits["test"]
    features, labels = _seen(dataset, test, directory)
    first = -len(test) if len(labels) > MOST_ENHANCED else 0
    return features[first:], labels[first:]


def _seen(dataset: MultiLabelDataset, test: Split, directory: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of the samples that a control may look at, those of test last.

    Of vectors these are train and test, standardised; of images the representations that a pretraining gives to test.
    """
    if dataset.train_features is None:
        with np.load(RunDirectory(directory).test_outputs) as outputs:
            return outputs["features"].astype(np.float64), test.labels
    features = np.concatenate([dataset.train_features, test.inputs]).astype(np.float64)
    deviation = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return features, np.concatenate([dataset.splits["train"].labels, test.labels])
