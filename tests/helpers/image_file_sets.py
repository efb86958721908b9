"""Small sets of real image files."""

import pathlib

import numpy as np
import tensorflow as tf
from PIL import Image

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.input_pipeline.decoding import cover, covering, decode_as_planned

LABEL_NAMES = ("red", "green", "blue")
SIZES = {"train": 24, "validation": 8, "test": 8}
FORMATS = (("jpg", "RGB"), ("png", "RGB"), ("jpg", "L"), ("png", "RGBA"))


def write_image_files(folder: pathlib.Path, sizes=SIZES, seed=0, formats=FORMATS) -> MultiLabelDataset:
    """Each image has a shape and a mean brightness of its own; a label lights up its colour."""
    rng = np.random.default_rng(seed)
    splits = {}
    for name, count in sizes.items():
        (folder / name).mkdir(parents=True)
        labels = (rng.random((count, 3)) < 0.5).astype(np.uint8)
        labels[np.arange(count), np.arange(count) % 3] = 1
        paths = []
        for number in range(count):
            suffix, mode = formats[number % len(formats)]
            height, width = rng.integers(20, 90, size=2)
            rows, columns = np.meshgrid(np.linspace(0, 60, height), np.linspace(0, 40, width), indexing="ij")
            pixels = (rows + columns + number)[..., None] + 100 * labels[number]
            path = folder / name / f"{number:03d} ü.{suffix}"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode).save(path)
            paths.append(str(path))
        splits[name] = Split(ImageFiles(np.array(paths, object)), labels)
    return MultiLabelDataset("csv", "image", LABEL_NAMES, splits)


def as_judged(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
    """A file as evaluation decodes it, `[*size, 3]` float32; tests/input_pipeline/decoding_test.py holds that against Pillow."""
    image, _ = decode_as_planned(tf.constant(path.read_bytes()), covering(size))
    return cover(image[None], size)[0].numpy()
