"""Small learnable datasets, in memory and as the `.npz` folders that the binaries read."""

import pathlib

import numpy as np

from mulsupcon_tf.datasets.base import MultiLabelDataset, Split

LABEL_NAMES = ("red", "green", "blue", "bright")
SIZES = {"train": 64, "validation": 24, "test": 24}
IMAGE_SHAPE = (20, 16, 3)


def tiny_vectors(num_features=10, sizes=SIZES, seed=0) -> MultiLabelDataset:
    """A sample is the sum of the directions of its labels, plus noise; features differ much in scale."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(len(LABEL_NAMES), num_features))
    scales, offsets = 10.0 ** rng.uniform(-2, 3, num_features), rng.normal(size=num_features) * 100
    splits = {}
    for name, count in sizes.items():
        labels = _labels(rng, count)
        clean = labels @ directions + 0.3 * rng.normal(size=(count, num_features))
        splits[name] = Split((clean * scales + offsets).astype(np.float32), labels)
    return MultiLabelDataset("npz", "vector", LABEL_NAMES, splits)


def tiny_images(shape=IMAGE_SHAPE, sizes=SIZES, seed=0) -> MultiLabelDataset:
    """Three labels light up a colour each, the fourth a corner; taller than wide, so that sides cannot be mixed up."""
    rng = np.random.default_rng(seed)
    splits = {}
    for name, count in sizes.items():
        labels = _labels(rng, count)
        images = rng.integers(0, 60, size=(count, *shape))
        images += 150 * labels[:, None, None, : shape[-1]]
        images[:, : shape[0] // 2, : shape[1] // 2] += 40 * labels[:, 3, None, None, None]
        splits[name] = Split(images.clip(0, 255).astype(np.uint8), labels, _distributions(labels))
    return MultiLabelDataset("npz", "image", LABEL_NAMES, splits)


def write_npz(dataset: MultiLabelDataset, folder: pathlib.Path) -> pathlib.Path:
    """Writes the dataset as `--dataset=npz --data_dir=FOLDER` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    key = {"vector": "features", "image": "images"}[dataset.kind]
    for name, split in dataset.splits.items():
        arrays = {key: split.inputs, "labels": split.labels, "label_names": np.array(dataset.label_names)}
        if split.distributions is not None:
            arrays["distributions"] = split.distributions
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


def _labels(rng, count):
    labels = (rng.random((count, len(LABEL_NAMES))) < 0.4).astype(np.uint8)
    labels[np.arange(count), np.arange(count) % len(LABEL_NAMES)] = 1
    return labels


def _distributions(labels):
    shares = labels * np.array([4.0, 3.0, 2.0, 1.0])
    return (shares / shares.sum(1, keepdims=True)).astype(np.float32)
