"""TFDS' own checks of a builder, on folders in the official layout, and a comparison with what training reads."""

import pathlib
import tempfile

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from mulsupcon_tf.datasets.images.mirflickr import read_parts as read_mirflickr
from mulsupcon_tf.datasets.images.nuswide import read_parts as read_nuswide
from mulsupcon_tf.datasets.images.tfds_builders import MirFlickr, NusWide
from tests.datasets.photo_folders import write_mirflickr, write_nuswide

pytest.importorskip("dill", reason="tensorflow-datasets' test cases import dill, which its package does not require")


class _BuilderTest(tfds.testing.DatasetBuilderTestCase):
    SKIP_CHECKSUMS = True  # nothing is downloaded

    @classmethod
    def setUpClass(cls):
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.EXAMPLE_DIR = cls.folder
        cls.write(pathlib.Path(cls.folder))
        super().setUpClass()

    def test_examples_are_those_that_training_reads(self):
        manual = tfds.download.DownloadConfig(manual_dir=self.folder)
        self.builder.download_and_prepare(download_config=manual)
        for name, split in self.read(pathlib.Path(self.folder)).items():
            examples = {
                example["image_id"].decode(): example for example in tfds.as_numpy(self.builder.as_dataset(split=name))
            }
            self.assertLen(examples, len(split))
            for path, labels in zip(split.inputs.paths, split.labels, strict=True):
                example = next(example for image_id, example in examples.items() if path.endswith(f"/{image_id}"))
                np.testing.assert_array_equal(example["labels"], np.flatnonzero(labels))
                with PIL.Image.open(path) as image:
                    np.testing.assert_allclose(example["image"], np.asarray(image), atol=2)  # two JPEG decoders


class NusWideTest(_BuilderTest):
    DATASET_CLASS = NusWide
    SPLITS = {"train": 5, "test": 2}  # noqa: RUF012
    write, read = staticmethod(write_nuswide), staticmethod(read_nuswide)


class MirFlickrTest(_BuilderTest):
    DATASET_CLASS = MirFlickr
    SPLITS = {"train": 7, "test": 4}  # noqa: RUF012
    write, read = staticmethod(write_mirflickr), staticmethod(read_mirflickr)


del _BuilderTest  # has no builder of its own to test
