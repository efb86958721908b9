import logging
import math
import os
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.datasets.splitting import with_whole_train
from mulsupcon_tf.input_pipeline.decoding import decode_image
from mulsupcon_tf.input_pipeline.image_files import (
    decoding_fault,
    naming_unreadable,
    readable_rows,
    reason_unreadable,
    with_pixel_limit,
    without_unreadable,
)
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.image_file_sets import write_image_files
from tests.helpers.tiny_datasets import tiny_images


@pytest.fixture
def folder(tmp_path):
    """24 files for training, of which numbers 5 (empty), 9 (text) and 12 (cut off) are broken, and test 3 (missing)."""
    dataset = write_image_files(tmp_path / "data")
    paths = [pathlib.Path(path) for path in dataset.splits["train"].inputs.paths]
    paths[5].write_bytes(b"")
    paths[9].write_text("not an image\n")
    paths[12].write_bytes(paths[12].read_bytes()[:-30])
    pathlib.Path(dataset.splits["test"].inputs.paths[3]).unlink()
    return tmp_path / "data", dataset


def test_exactly_the_whole_images_are_readable(folder):
    _, dataset = folder
    assert readable_rows(dataset.splits["train"].inputs).tolist() == sorted(set(range(24)) - {5, 9, 12})
    assert readable_rows(dataset.splits["validation"].inputs).tolist() == list(range(8))
    assert readable_rows(dataset.splits["test"].inputs).tolist() == [0, 1, 2, 4, 5, 6, 7]


def test_the_reason_is_one_line_and_none_for_a_whole_image(folder):
    _, dataset = folder
    paths = dataset.splits["train"].inputs.paths
    assert reason_unreadable(paths[0]) is None
    assert reason_unreadable(paths[5]) == "it is empty"
    for path in (paths[9], paths[12], dataset.splits["test"].inputs.paths[3]):
        reason = reason_unreadable(path)
        assert reason
        assert "\n" not in reason
        assert "{{" not in reason


def test_the_reason_is_the_rule_that_an_image_breaks(tmp_path):
    one = PIL.Image.new("RGB", (9, 9))
    one.save(tmp_path / "film.webp", save_all=True, append_images=[PIL.Image.new("RGB", (9, 9), "red")])
    one.save(tmp_path / "photo.tiff")
    one.save(tmp_path / "cut.bmp")
    (tmp_path / "cut.bmp").write_bytes((tmp_path / "cut.bmp").read_bytes()[:-1])
    assert {path.name: reason_unreadable(str(path)) for path in tmp_path.iterdir()} == {
        "film.webp": "a WebP must be a picture, not a film",
        "photo.tiff": "an image must be a JPEG, PNG, GIF, BMP or WebP, not another kind of file",
        "cut.bmp": "a BMP must hold all of its pixels, not a part",
    }


def test_images_of_more_pixels_than_allowed_count_as_broken(folder):
    _, dataset = folder
    files = dataset.splits["validation"].inputs
    pixels = [math.prod(PIL.Image.open(path).size) for path in files.paths]
    limit = sorted(pixels)[3]
    limited = with_pixel_limit(dataset, limit)
    assert readable_rows(limited.splits["validation"].inputs[:]).tolist() == [
        row for row, count in enumerate(pixels) if count <= limit
    ]
    row = int(np.argmax(pixels))
    with (
        pytest.raises(InputError, match=rf"at most {limit} pixels .*, not {pixels[row]}\)"),
        naming_unreadable(lambda: limited.splits["validation"].inputs[[row]]),
    ):
        tf.io.decode_jpeg(b"anything")
    np.testing.assert_array_equal(limited.splits["train"].labels, dataset.splits["train"].labels)
    in_memory = tiny_images()
    assert with_pixel_limit(in_memory, 9) is in_memory


def test_the_fault_of_a_graph_is_reported_without_the_graph(tmp_path):
    def fault(data):
        size = tf.function(lambda images: tf.map_fn(lambda one: tf.size(decode_image(one, 80)), images, tf.int32))
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            size(tf.constant([data]))
        return decoding_fault(caught.value)

    PIL.Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    assert fault(whole) == "an image must have at most 80 pixels (--max_image_pixels), not 81"
    assert fault(b"text") == "an image must be a JPEG, PNG, GIF, BMP or WebP, not another kind of file"
    assert fault(b"\xff\xd8\xff" + bytes(20)) == "Invalid JPEG data, size 23"


def test_what_is_broken_is_left_out_with_its_labels_and_listed(folder, tmp_path, caplog):
    data_dir, dataset = folder
    listing = tmp_path / "bad_images.txt"
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        whole = without_unreadable(dataset, listing, data_dir=str(data_dir), scan=True)
    train = dataset.splits["train"]
    kept = [row for row in range(24) if row not in (5, 9, 12)]
    assert whole.splits["train"].inputs.paths.tolist() == train.inputs.paths[kept].tolist()
    np.testing.assert_array_equal(whole.splits["train"].labels, train.labels[kept])
    assert [len(whole.splits[name]) for name in ("validation", "test")] == [8, 7]
    lines = [line.split("\t") for line in listing.read_text(encoding="utf-8").splitlines()]
    assert [name for name, _ in lines] == ["train/005 ü.png", "train/009 ü.png", "train/012 ü.jpg", "test/003 ü.png"]
    assert all(reason for _, reason in lines)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "3 of 24 in train, 0 of 8 in validation, 1 of 8 in test" in message


def test_an_image_that_is_in_two_splits_is_listed_once(folder, tmp_path):
    data_dir, dataset = folder
    pathlib.Path(dataset.splits["validation"].inputs.paths[2]).write_bytes(b"GIF89a")
    listing = tmp_path / "bad_images.txt"
    kept = without_unreadable(with_whole_train(dataset), listing, data_dir=str(data_dir), scan=True)
    names = [line.split("\t")[0] for line in listing.read_text(encoding="utf-8").splitlines()]
    broken = [f"train/{name}" for name in ("005 ü.png", "009 ü.png", "012 ü.jpg")]
    assert names == [*broken, "validation/002 ü.jpg", "test/003 ü.png"]
    assert [len(split) for split in kept.splits.values()] == [24 - 3 + 8 - 1, 8 - 1, 8 - 1]


def written_below(dataset, folder, data_dir):
    """The dataset as loaders give it that find its folder under another name."""
    splits = {}
    for name, split in dataset.splits.items():
        paths = [str(pathlib.Path(data_dir) / pathlib.Path(path).relative_to(folder)) for path in split.inputs.paths]
        splits[name] = Split(ImageFiles(np.array(paths, object)), split.labels)
    return MultiLabelDataset("csv", "image", dataset.label_names, splits)


def test_the_folder_may_be_written_in_any_way(folder, tmp_path, monkeypatch):
    data_dir, dataset = folder
    listing = tmp_path / "bad_images.txt"
    places = {
        tmp_path: ("./data", "data", "data/", "data//", "./data/../data", str(data_dir)),
        data_dir: (".", "./", "../data"),
    }
    for place, names in places.items():
        monkeypatch.chdir(place)
        for name in names:
            there = written_below(dataset, data_dir, name)
            whole = without_unreadable(
                there, listing, data_dir=name, scan=True
            )  # what it lists the first time is read later
            assert [len(split) for split in whole.splits.values()] == [21, 8, 7], name


def test_a_continued_run_uses_the_list_even_where_the_data_has_moved(folder, tmp_path):
    data_dir, dataset = folder
    listing = tmp_path / "bad_images.txt"
    first = without_unreadable(dataset, listing, data_dir=str(data_dir), scan=True)
    shutil.move(data_dir, tmp_path / "moved")

    def moved(split):
        paths = [path.replace("/data/", "/moved/") for path in split.inputs.paths]
        return Split(ImageFiles(np.array(paths, object)), split.labels)

    splits = {name: moved(split) for name, split in dataset.splits.items()}
    pathlib.Path(splits["train"].inputs.paths[0]).write_bytes(b"broken since")
    there = MultiLabelDataset("csv", "image", dataset.label_names, splits)
    for scan in (True, False):
        again = without_unreadable(there, listing, data_dir=str(tmp_path / "moved"), scan=scan)
        for name in splits:
            assert again.splits[name].inputs.paths.tolist() == moved(first.splits[name]).inputs.paths.tolist()


def test_a_name_that_is_no_utf_8_is_read(tmp_path):
    """Of photos that are searched, which no table names."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    PIL.Image.new("RGB", (9, 9)).save(path)
    assert readable_rows(ImageFiles(np.array([path], object))).tolist() == [0]
    assert reason_unreadable(path) is None


def test_any_name_can_be_listed(tmp_path):
    names = ["plain ü.png", "line\u2028break.png", "next\x85line.png", "two\nlines.png", "a\ttab.png", '"quoted".png']
    for name in names:
        (tmp_path / name).write_bytes(b"no image")
    good = [str(tmp_path / name) for name in ("first.png", "last.png")]
    for path in good:
        PIL.Image.new("RGB", (9, 9)).save(path)
    files = ImageFiles(np.array([good[0], *(str(tmp_path / name) for name in names), good[1]], object))
    labels = np.eye(len(files), dtype=np.uint8)
    splits = dict.fromkeys(("train", "validation", "test"), Split(files, labels))
    dataset = MultiLabelDataset("csv", "image", tuple(map(str, range(len(files)))), splits)
    for _ in range(2):  # written, then read
        whole = without_unreadable(dataset, tmp_path / "bad_images.txt", data_dir=str(tmp_path), scan=True)
        assert whole.splits["train"].inputs.paths.tolist() == good
        np.testing.assert_array_equal(whole.splits["train"].labels, labels[[0, -1]])


def test_nothing_is_left_out_unasked(folder, tmp_path):
    data_dir, dataset = folder
    assert without_unreadable(dataset, tmp_path / "none.txt", data_dir=str(data_dir), scan=False) is dataset
    assert not (tmp_path / "none.txt").exists()


def test_a_split_without_any_readable_image_is_refused(folder, tmp_path):
    data_dir, dataset = folder
    for path in dataset.splits["validation"].inputs.paths:
        pathlib.Path(path).write_bytes(b"GIF89a")
    with pytest.raises(InputError, match="Received: none in validation"):
        without_unreadable(dataset, tmp_path / "bad_images.txt", data_dir=str(data_dir), scan=True)


def test_an_error_of_the_graph_becomes_one_line_that_names_the_file(folder):
    _, dataset = folder
    files = dataset.splits["train"].inputs
    with pytest.raises(InputError) as caught, naming_unreadable(lambda: files[8:]):
        tf.io.decode_jpeg(b"anything")
    assert f"Received: {files.paths[9]} (" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_that_no_file_explains_stays_what_it_is(folder):
    _, dataset = folder
    for inputs in (dataset.splits["train"].inputs[:5], np.zeros(3), None):
        with (
            pytest.raises(tf.errors.InvalidArgumentError, match="Matrix size"),
            naming_unreadable(lambda inputs=inputs: inputs),
        ):
            tf.linalg.matmul(tf.ones((2, 3)), tf.ones((2, 3)))
