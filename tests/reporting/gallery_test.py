import numpy as np
import PIL.Image
import pytest

from mulsupcon_tf.datasets.base import ImageFiles, Split
from mulsupcon_tf.reporting import gallery
from mulsupcon_tf.reporting.inputs import load_inputs
from tests.helpers.hand_made_runs import SIZES, write_run
from tests.helpers.tiny_datasets import tiny_vectors, write_npz


def test_neighbour_share_equals_a_loop():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(700, 5))  # more than are compared at once
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    groups = rng.integers(0, 3, 700)
    groups[:50] = rows[:50, 0] > 0
    shares = []
    for i in range(700):
        nearest = sorted((j for j in range(700) if j != i), key=lambda j, i=i: -float(rows[i] @ rows[j]))[:10]
        shares.append(sum(groups[j] == groups[i] for j in nearest) / 10)
    assert gallery.neighbour_share(rows, groups) == pytest.approx(np.mean(shares), abs=1e-12)


def test_a_sample_is_coloured_by_its_largest_share_or_its_rarest_label():
    labels = np.array([[1, 1, 0], [0, 1, 1]], np.uint8)
    train = np.array([[1, 0, 1], [0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.uint8)  # 3, 2 and 3 of 5
    shares = np.array([[0.4, 0.6, 0], [0, 0.9, 0.1]], np.float32)
    assert gallery.colour_labels(Split(np.zeros((2, 1)), labels, shares), train).tolist() == [1, 1]
    assert gallery.colour_labels(Split(np.zeros((2, 1)), labels), train).tolist() == [1, 1]


def test_samples_without_a_label_are_not_on_the_map(tmp_path):
    dataset = tiny_vectors(sizes=SIZES)
    test = dataset.splits["test"]
    labels = test.labels.copy()
    labels[:7] = 0
    splits = dict(dataset.splits) | {"test": Split(test.inputs, labels)}
    data = write_npz(type(dataset)("npz", "vector", dataset.label_names, splits), tmp_path / "data")
    run = write_run(tmp_path / "run", data_dir=data, phase="finetune", method="bce")
    assert gallery.map_section(load_inputs([run])) is None  # 29 are left, 30 are the fewest


def test_a_photo_on_disk_is_shown_upright_and_small(tmp_path):
    pixels = np.zeros((400, 800, 3), np.uint8)
    pixels[:, :400, 0] = 250  # the left half is red
    turned = PIL.Image.Exif()
    turned[0x0112] = 6  # to be turned clockwise: left becomes top
    PIL.Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=turned, quality=95)
    PIL.Image.fromarray(pixels[:, :, 0]).save(tmp_path / "grey.png")
    paths = np.array([str(tmp_path / "grey.png"), str(tmp_path / "turned.jpg")], object)
    split = Split(ImageFiles(paths), np.ones((2, 1), np.uint8))
    shown = gallery.pixels_of(split, 1)
    assert (shown.shape, shown.dtype) == ((200, 100, 3), np.uint8)
    assert shown[:90, :, 0].min() > 240
    assert shown[110:, :, 0].max() < 10
    assert gallery.pixels_of(split, 0).shape == (100, 200, 3)
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(gallery.pixels_of(Split(images, np.ones((2, 1), np.uint8)), 1), images[1])


def test_a_photo_that_pillow_does_not_open_has_no_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    split = Split(ImageFiles(np.array([str(tmp_path / "a.png")], object)), np.ones((1, 1), np.uint8))
    assert gallery.scene_of(split, 0, "a photo") == ""


def test_a_sample_is_called_by_its_row_and_its_file():
    labels = np.ones((2, 1), np.uint8)
    files = Split(ImageFiles(np.array(["/data/a.jpg", "/data/trip/b & c.jpg"], object), folder="/data"), labels)
    assert gallery.sample_name(files, 1) == "Test image 1 (trip/b & c.jpg)"
    assert gallery.sample_name(Split(np.zeros((2, 4, 4, 3), np.uint8), labels), 0) == "Test image 0"
    assert gallery.sample_name(Split(np.zeros((2, 4), np.float32), labels), 1) == "Test sample 1"
