"""TFDS builders of NUS-WIDE and MIRFLICKR-25k, which TFDS lacks: for people who want its files and its API.

Training needs none of this: `--dataset=nuswide` and `--dataset=mirflickr` read the official folders themselves, by the
same functions, and with the same labels and the same train and test part. Importing this module registers the builders:

    import tensorflow_datasets as tfds
    import mulsupcon_tf.datasets.images.tfds_builders

    manual = tfds.download.DownloadConfig(manual_dir="DIR")
    train = tfds.load("nus_wide", split="train", download_and_prepare_kwargs={"download_config": manual})
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mulsupcon_tf.datasets.base import ImageFiles, Split
from mulsupcon_tf.datasets.images import mirflickr, nuswide

_Example = tuple[str, dict[str, Any]]


class NusWide(tfds.core.GeneratorBasedBuilder):
    """NUS-WIDE: photos from Flickr with 81 concepts, in the official train and test part."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Place the official folders ImageList, Groundtruth and Flickr (the images) in the manual folder; they are got from
    https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html. Images that can no longer be had
    must be named in absent_images.txt beside them, one a line as in the image lists.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, nuswide.CONCEPTS)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[_Example]]:
        parts = nuswide.read_parts(pathlib.Path(dl_manager.manual_dir))
        return {name: self._generate_examples(split) for name, split in parts.items()}

    def _generate_examples(self, split: Split) -> Iterator[_Example]:
        return _examples(split, path_parts=2)  # actor/0001_2124494179.jpg


class MirFlickr(tfds.core.GeneratorBasedBuilder):
    """MIRFLICKR-25k: 25,000 photos from Flickr with 24 labels; three of every five are train, two are test."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Unpack mirflickr25k.zip, and mirflickr25k_annotations_v080.zip into a folder named annotations, in the manual
    folder; they are got from https://press.liacs.nl/mirflickr/mirdownload.html.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return _info(self, mirflickr.LABELS)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[_Example]]:
        parts = mirflickr.read_parts(pathlib.Path(dl_manager.manual_dir))
        return {name: self._generate_examples(split) for name, split in parts.items()}

    def _generate_examples(self, split: Split) -> Iterator[_Example]:
        return _examples(split, path_parts=1)  # im1.jpg


def _info(builder: tfds.core.DatasetBuilder, labels: tuple[str, ...]) -> tfds.core.DatasetInfo:
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "image_id": tfds.features.Text(),
        "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=labels)),
    }
    return tfds.core.DatasetInfo(
        builder=builder, description=builder.__doc__, features=tfds.features.FeaturesDict(features)
    )


def _examples(split: Split, path_parts: int) -> Iterator[_Example]:
    """Yields each example under the last parts of its path, which do not depend on where the folder lies."""
    assert isinstance(split.inputs, ImageFiles)
    for path, labels in zip(split.inputs.paths, split.labels, strict=True):
        image_id = "/".join(pathlib.Path(path).parts[-path_parts:])
        yield image_id, {"image": path, "image_id": image_id, "labels": np.flatnonzero(labels).tolist()}
