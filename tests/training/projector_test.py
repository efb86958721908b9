import csv

import numpy as np
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import projector_config_pb2

from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.training.projector import THUMBNAIL, write_projector
from tests.helpers.image_file_sets import as_judged, write_image_files
from tests.helpers.tiny_datasets import tiny_images


def config_of(folder):
    """As TensorBoard's own plugin reads it."""
    config = projector_config_pb2.ProjectorConfig()
    text_format.Parse((folder / "projector_config.pbtxt").read_text(), config)
    (embedding,) = config.embeddings
    return embedding


def rows_of(folder):
    with (folder / "labels.tsv").open(newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def vectors(labels, shares=None):
    split = Split(np.zeros((len(labels), 2), np.float32), labels, shares)
    return MultiLabelDataset("npz", "vector", ("sea", "a\tsky"), {"test": split})


def test_embeddings_and_labels_lie_where_the_projector_looks_for_them(tmp_path):
    embeddings = np.random.default_rng(0).normal(size=(2100, 3))
    labels = np.zeros((2100, 2), np.uint8)
    labels[0] = 1
    labels[1, 1] = 1
    shares = np.array([[0.3, 0.7], [0, 1]] + [[0, 0]] * 2098, np.float32)
    write_projector(tmp_path / "truth", embeddings, vectors(labels, shares))
    config = config_of(tmp_path / "truth")
    assert (config.tensor_path, config.metadata_path, config.sprite.image_path) == ("embeddings.tsv", "labels.tsv", "")
    written = np.loadtxt(tmp_path / "truth" / "embeddings.tsv", delimiter="\t")
    np.testing.assert_allclose(written, embeddings[:2000], rtol=1e-4)
    rows = rows_of(tmp_path / "truth")
    assert len(rows) == 2001
    assert rows[0] == ["labels", "dominant", "count", "sea", "a\tsky"]
    assert rows[1] == ["sea;a\tsky", "a\tsky", "2", "yes", "yes"]
    assert rows[2:4] == [["a\tsky", "a\tsky", "1", "no", "yes"], ["(none)", "(none)", "0", "no", "no"]]


def test_without_truth_a_sample_is_named_by_its_rarest_label(tmp_path):
    labels = np.array([[1, 1], [0, 1], [0, 0]], np.uint8)
    write_projector(tmp_path, np.zeros((3, 3)), vectors(labels))
    rows = rows_of(tmp_path)
    assert [row[1] for row in rows] == ["rarest", "sea", "a\tsky", "(none)"]


def thumbnails_of(folder):
    sprite = config_of(folder).sprite
    assert list(sprite.single_image_dim) == [THUMBNAIL, THUMBNAIL]
    with Image.open(folder / sprite.image_path) as file:
        sheet = np.asarray(file.convert("RGB"))
    per_row = sheet.shape[1] // THUMBNAIL
    cells = sheet.reshape(-1, THUMBNAIL, per_row, THUMBNAIL, 3).transpose(0, 2, 1, 3, 4)
    return cells.reshape(-1, THUMBNAIL, THUMBNAIL, 3)


def test_image_files_are_shown_as_they_are_judged_row_by_row(tmp_path):
    dataset = write_image_files(tmp_path / "photos")
    write_projector(tmp_path / "board", np.zeros((8, 4)), dataset)
    thumbnails = thumbnails_of(tmp_path / "board")
    assert len(thumbnails) == 9
    for thumbnail, path in zip(thumbnails, dataset.splits["test"].inputs.paths, strict=False):
        expected = as_judged(tmp_path / path, (THUMBNAIL, THUMBNAIL))
        assert np.abs(thumbnail - expected).max() <= 0.51
    assert (thumbnails[8] == 255).all()


def test_images_in_memory_are_shown_too_grey_ones_as_well(tmp_path):
    for shape in ((20, 16, 3), (20, 16, 1)):
        dataset = tiny_images(shape)
        folder = tmp_path / str(shape[-1])
        write_projector(folder, np.zeros((24, 4)), dataset)
        thumbnails = thumbnails_of(folder)
        assert len(thumbnails) == 25
        means = dataset.splits["test"].inputs.mean(axis=(1, 2))  # brightness survives scaling, nearly
        got = thumbnails[:24].mean(axis=(1, 2))
        assert np.corrcoef(got.ravel(), np.broadcast_to(means, got.shape).ravel())[0, 1] > 0.9
