import pathlib

import numpy as np
import pytest

from mulsupcon_tf.datasets.images.mirflickr import LABELS, read_parts
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.utils.errors import InputError
from tests.datasets.photo_folders import MIRFLICKR, write_mirflickr


@pytest.fixture
def folder(tmp_path):
    return write_mirflickr(tmp_path)


def error_of(folder):
    with pytest.raises(InputError) as caught:
        read_parts(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def numbers(split):
    return [int(pathlib.Path(path).stem.removeprefix("im")) for path in split.inputs.paths]


def test_the_24_potential_labels_are_in_the_order_of_the_alphabet():
    assert len(LABELS) == len(set(LABELS)) == 24
    assert list(LABELS) == sorted(LABELS)


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("mirflickr", "annotations"),
        ("mirflickr", "mirflickr25k_annotations_v080"),
        ("mirflickr", "mirflickr/annotations"),
        ("images", "annotations_v080"),
        (".", "."),
    ],
)
def test_images_and_labels_are_found_however_the_archives_were_unpacked(tmp_path, images, annotations):
    parts = read_parts(write_mirflickr(tmp_path, images, annotations))
    assert numbers(parts["train"]) == [1, 2, 3, 6, 7, 8, 11]
    assert numbers(parts["test"]) == [4, 5, 9, 10]
    for split in parts.values():
        assert split.labels.dtype == np.uint8
        for number, row in zip(numbers(split), split.labels, strict=True):
            assert list(np.flatnonzero(row)) == list(MIRFLICKR[number - 1])


def test_three_of_every_five_images_are_train_and_two_test(tmp_path):
    write_mirflickr(tmp_path)
    for number in range(1, 251):
        (tmp_path / "mirflickr" / f"im{number}.jpg").touch()
    parts = read_parts(tmp_path)
    assert {name: len(split) for name, split in parts.items()} == {"train": 150, "test": 100}


def test_loading_by_name_carves_validation_from_train(folder):
    dataset = load_dataset("mirflickr", data_dir=str(folder))
    assert (dataset.label_names, dataset.input_shape, dataset.on_disk) == (LABELS, (None, None, 3), True)
    assert len(dataset.splits["validation"]) and len(dataset.splits["test"]) == 4
    assert sorted(numbers(dataset.splits["train"]) + numbers(dataset.splits["validation"])) == [1, 2, 3, 6, 7, 8, 11]


def test_a_gap_in_the_numbers_is_a_missing_image(folder):
    (folder / "mirflickr" / "im2.jpg").unlink()
    assert f"{folder / 'mirflickr' / 'im2.jpg'} missing" in error_of(folder)


def test_a_number_beyond_the_images_is_named_with_file_and_line(folder):
    (folder / "mirflickr" / "im11.jpg").unlink()
    path = folder / "annotations" / "clouds.txt"
    assert error_of(folder).endswith(f"im11.jpg missing in {folder / 'mirflickr'}, listed in {path}, line 3")


@pytest.mark.parametrize("wrong", ["im3", "0", "-1", "1.5", "\xff"])
def test_what_is_no_image_number_is_named_with_file_and_line(folder, wrong):
    path = folder / "annotations" / "sky.txt"
    path.write_bytes(b"1\r\n" + wrong.encode("latin-1") + b"\r\n")
    message = error_of(folder)
    assert "one image number a line" in message
    assert message.endswith(f"in {path}, line 2")


def test_a_missing_label_file_is_named(folder):
    (folder / "annotations" / "tree.txt").unlink()
    assert str(folder / "annotations" / "tree.txt") in error_of(folder)


def test_folders_without_images_or_labels_are_errors(tmp_path):
    assert error_of(tmp_path).endswith(f"Received: none in {tmp_path}")
    (tmp_path / "im1.jpg").touch()
    assert error_of(tmp_path).endswith(f"Received: none below {tmp_path}")
