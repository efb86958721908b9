import logging
import pathlib

import numpy as np
import PIL.Image
import pytest

from mulsupcon_tf.datasets.images.nuswide import CONCEPTS, read_parts
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.utils.errors import InputError
from tests.datasets.photo_folders import NUSWIDE, write_nuswide


@pytest.fixture
def folder(tmp_path):
    return write_nuswide(tmp_path)


def error_of(folder):
    with pytest.raises(InputError) as caught:
        read_parts(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_81_concepts_are_distinct_and_in_the_order_of_the_alphabet():
    assert len(CONCEPTS) == len(set(CONCEPTS)) == 81
    assert list(CONCEPTS) == sorted(CONCEPTS)


@pytest.mark.parametrize("images", ["Flickr", "images"])
def test_images_and_labels_are_those_of_the_official_files(tmp_path, images):
    parts = read_parts(write_nuswide(tmp_path, images))
    for part, concepts_of in NUSWIDE.items():
        split = parts[part.lower()]
        assert list(split.inputs.paths) == [str(tmp_path / images / name) for name in concepts_of]
        assert [list(np.flatnonzero(row)) for row in split.labels] == [list(each) for each in concepts_of.values()]
        assert split.labels.dtype == np.uint8


def test_loading_by_name_keeps_the_official_test_part_and_carves_validation_from_train(folder, caplog):
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        dataset = load_dataset("nuswide", data_dir=str(folder))
    assert (dataset.num_labels, dataset.input_shape, dataset.on_disk) == (81, (None, None, 3), True)
    assert len(dataset.splits["validation"]) and len(dataset.splits["test"]) == 2
    names = {pathlib.Path(path).name for each in ("train", "validation") for path in dataset.splits[each].inputs.paths}
    assert names == {pathlib.Path(name).name for name in NUSWIDE["Train"]}
    assert "1 of 2 in test" in caplog.text  # images without any label stay in, and are counted
    for path in dataset.splits["test"].inputs.paths:
        assert PIL.Image.open(path).size == (8, 6)


def test_absent_images_are_counted_and_the_rule_is_named(folder):
    (folder / "Flickr" / "actor" / "0002_12.jpg").unlink()
    (folder / "Flickr" / "zoo" / "0004_22.jpg").unlink()
    message = error_of(folder)
    assert f"or be named in {folder / 'absent_images.txt'}" in message
    assert message.endswith(f"2 of 7 absent, the first {folder / 'Flickr' / 'actor' / '0002_12.jpg'}")


def test_images_that_the_user_names_as_absent_are_left_out_with_their_labels(folder, caplog):
    (folder / "Flickr" / "actor" / "0002_12.jpg").unlink()
    (folder / "Flickr" / "zoo" / "0004_22.jpg").unlink()
    (folder / "absent_images.txt").write_text("actor\\0002_12.jpg\nzoo/0004_22.jpg\n\n")
    parts = read_parts(folder)
    assert [pathlib.Path(path).name for path in parts["train"].inputs.paths] == [
        "0001_11.jpg",
        "0001_13.jpg",
        "0002_14.jpg",
        "0003_15.jpg",
    ]
    assert list(parts["train"].labels.sum(axis=1)) == [41, 40, 2, 81]
    assert list(parts["test"].labels.sum(axis=1)) == [1]
    assert "2 of 7 images" in caplog.text


def test_an_absent_image_that_no_list_names_is_a_slip(folder):
    (folder / "absent_images.txt").write_text("actor\\0002_13.jpg\n")
    assert error_of(folder).endswith("absent_images.txt (nearest: 'actor/0002_12.jpg')")


def test_a_label_other_than_0_or_1_is_named_with_file_and_line(folder):
    path = folder / "Groundtruth" / "TrainTestLabels" / "Labels_sky_Train.txt"
    path.write_text("0\n1\n2\n0\n0\n")
    assert error_of(folder) == f"labels must be 0 or 1. Received: '2' in {path}, line 3"


def test_a_list_of_labels_that_does_not_fit_its_images_is_an_error(folder):
    path = folder / "Groundtruth" / "TrainTestLabels" / "Labels_zebra_Test.txt"
    path.write_text("0\n")
    assert error_of(folder).endswith(f"the 2 images in TestImagelist.txt. Received: 1 lines in {path}")


@pytest.mark.parametrize("absent", ["ImageList/TestImagelist.txt", "Groundtruth/TrainTestLabels/Labels_fox_Test.txt"])
def test_a_missing_official_file_is_named(folder, absent):
    (folder / absent).unlink()
    assert error_of(folder).endswith(f"Received: {folder / absent} (no such file)")


def test_a_folder_without_images_is_an_error(tmp_path):
    assert error_of(tmp_path).endswith(f"in Flickr or images. Received: none in {tmp_path}")


def test_an_image_list_does_not_lead_out_of_the_folder(folder):
    path = folder / "ImageList" / "TrainImagelist.txt"
    path.write_text("..\\..\\secret.jpg\n" + path.read_text().split("\n", 1)[1])
    assert "named by a path inside" in error_of(folder)
    assert "'../../secret.jpg' in the image lists" in error_of(folder)


def test_the_most_frequent_concepts_of_train_can_be_taken_alone(folder):
    whole, part = (load_dataset(name, data_dir=str(folder)) for name in ("nuswide", "nuswide21"))
    counts = read_parts(folder)["train"].labels.sum(axis=0)
    assert len(part.label_names) == 21
    columns = [CONCEPTS.index(name) for name in part.label_names]
    assert columns == sorted(columns)
    assert counts[columns].min() >= np.delete(counts, columns).max()
    for name, split in whole.splits.items():
        np.testing.assert_array_equal(part.splits[name].labels, split.labels[:, columns])
        assert part.splits[name].inputs.paths.tolist() == split.inputs.paths.tolist()
