import dataclasses
import logging

import numpy as np
import pytest

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import (
    check_dataset,
    existing_folder,
    missing_files,
    path_inside,
    require_existing,
)
from mulsupcon_tf.utils.errors import InputError

RNG = np.random.default_rng(0)


def vectors(labels, inputs=None, distributions=None):
    labels = np.array(labels, np.uint8)
    inputs = RNG.normal(size=(len(labels), 2)).astype(np.float32) if inputs is None else inputs
    return Split(inputs, labels, distributions)


GOOD = MultiLabelDataset(
    "mine",
    "vector",
    ("cat", "dog"),
    {"train": vectors([[1, 0], [0, 1], [0, 0]]), "validation": vectors([[1, 1]]), "test": vectors([[1, 1], [0, 0]])},
)


def with_split(name, split):
    return dataclasses.replace(GOOD, splits={**GOOD.splits, name: split})


def test_a_sound_dataset_passes_and_reports_samples_without_labels(caplog):
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        check_dataset(GOOD)
    assert [record.getMessage() for record in caplog.records] == [
        "mine: samples without any label: 1 of 3 in train, 0 of 1 in validation, 1 of 2 in test"
    ]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": [[0, 1], [0, 0]]}, "no positive in train, so it cannot be learnt: 'cat'"),
        ({"validation": [[1, 0], [0, 0]]}, "no positive in validation: 'dog'"),
        ({"test": [[0, 1]]}, "no positive in test, so it cannot be judged: 'cat'"),
        (
            {"train": [[0, 1]], "validation": [[0, 0]]},
            "no positive in train, so it cannot be learnt: 'cat'; no positive in validation: 'cat', 'dog'",
        ),
    ],
)
def test_labels_that_a_split_never_shows_are_one_warning(caplog, splits, message):
    changed = {name: vectors(labels) for name, labels in splits.items()}
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        check_dataset(dataclasses.replace(GOOD, splits={**GOOD.splits, **changed}))
    assert caplog.messages == [f"mine: {message}"]


def test_labels_that_are_never_positive_are_named():
    names = tuple(f"tag{index}" for index in range(9))
    labels = np.zeros((4, 9), np.uint8)
    labels[:, [2, 5]] = 1
    with pytest.raises(InputError, match=r"Received: none for 'tag0', 'tag1', 'tag3', 'tag4', 'tag6' and 2 more$"):
        check_dataset(MultiLabelDataset("mine", "vector", names, {name: vectors(labels) for name in GOOD.splits}))


def test_a_distribution_row_may_be_all_zero():
    rows = np.array([[1, 0], [0.25, 0.75], [0, 0]], np.float32)  # mass beside the labels is no fault, as in `ldl`
    check_dataset(with_split("train", vectors([[1, 0], [0, 1], [0, 0]], distributions=rows)))


NAN = np.array([[0, 1], [2, np.nan]], np.float32)
BAD = {
    "missing split": (
        dataclasses.replace(GOOD, splits={"train": GOOD.splits["train"], "test": GOOD.splits["test"]}),
        "Received: no split 'validation'",
    ),
    "empty split": (with_split("test", vectors(np.zeros((0, 2)))), "Received: 0 in split 'test'"),
    "no label": (dataclasses.replace(GOOD, label_names=()), "at least one label"),
    "same label names": (dataclasses.replace(GOOD, label_names=("cat", "cat")), "distinct. Received: 'cat' twice"),
    "empty label name": (dataclasses.replace(GOOD, label_names=("cat", " ")), "not empty. Received: ' '"),
    "unseen label name": (
        dataclasses.replace(GOOD, label_names=("cat", "\u200b")),
        r"not empty. Received: '\\u200b'",
    ),
    "label name that is no Unicode": (
        dataclasses.replace(GOOD, label_names=("cat", "d\ud800g")),
        r"written as UTF-8, .* Received: 'd\\ud800g'",
    ),
    "other number of labels": (with_split("test", vectors([[1, 0, 1]])), r"Received: uint8 \(1, 3\) in split 'test'"),
    "other number of features": (
        with_split("test", vectors([[1, 0]], np.zeros((1, 3), np.float32))),
        r"\(2,\). Received: float32 \(1, 3\) in split 'test'",
    ),
    "no features": (
        dataclasses.replace(GOOD, splits=dict.fromkeys(GOOD.splits, vectors([[1, 1]], np.zeros((1, 0), np.float32)))),
        r"Received: float32 \(1, 0\)",
    ),
    "rows do not match": (with_split("test", vectors([[1, 0]], np.zeros((2, 2), np.float32))), r"shape \(2, 2\)"),
    "double precision": (with_split("test", vectors([[1, 0]], np.zeros((1, 2)))), "must be float32 .* float64"),
    "images for vectors": (
        with_split("test", vectors([[1, 0]], np.zeros((1, 4, 4, 1), np.uint8))),
        "vector inputs must be float32 with 2 dimensions",
    ),
    "float labels": (
        with_split("test", Split(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))),
        "labels must be uint8",
    ),
    "label 2": (with_split("test", vectors([[0, 1], [2, 0]])), "Received: 2 in split 'test'.*, row 1, column 0"),
    "NaN": (with_split("test", vectors([[0, 1], [1, 0]], NAN)), "Received: nan in split 'test'.*, row 1, column 1"),
    "distribution off 1": (
        with_split("test", vectors([[0, 1], [1, 0]], distributions=np.array([[0, 1], [0.5, 0.4]], np.float32))),
        "Received: sum 0.9, .* row 1",
    ),
    "distribution off the labels": (
        with_split("test", vectors([[1, 1], [1, 0]], distributions=np.array([[0, 1], [0, 1]], np.float32))),
        "Received: mass on other labels alone in split 'test'.*, row 1",
    ),
    "distribution of a sample without labels": (
        with_split("test", vectors([[1, 1], [0, 0]], distributions=np.array([[0, 1], [0.5, 0.5]], np.float32))),
        "Received: mass on other labels alone in split 'test'.*, row 1",
    ),
    "negative mass": (
        with_split("test", vectors([[0, 1]], distributions=np.array([[-0.5, 1.5]], np.float32))),
        "least value -0.5",
    ),
    "distribution shape": (
        with_split("test", vectors([[0, 1]], distributions=np.ones((1, 1), np.float32))),
        r"Received: \(1, 1\) in split 'test'",
    ),
}


@pytest.mark.parametrize(("dataset", "message"), BAD.values(), ids=BAD)
def test_broken_rules_are_one_line_with_the_place(dataset, message):
    with pytest.raises(InputError, match=message) as caught:
        check_dataset(dataset)
    assert "\n" not in str(caught.value)


def test_existing_folder(tmp_path):
    assert existing_folder(str(tmp_path), "arff") == tmp_path
    for wrong in (None, str(tmp_path / "absent")):
        with pytest.raises(InputError, match="--data_dir must be an existing folder for --dataset=arff"):
            existing_folder(wrong, "arff")


def test_a_path_from_a_data_file_stays_in_its_folder(tmp_path):
    assert path_inside(tmp_path, "a/b.jpg", "list") == tmp_path / "a" / "b.jpg"
    assert path_inside(tmp_path, "..b.jpg", "list") == tmp_path / "..b.jpg"
    assert path_inside(tmp_path, ".\\a\\b.jpg", "list") == tmp_path / "a" / "b.jpg"
    for name in ("", ".", "..", "../b.jpg", "a/../../b.jpg", "/b.jpg"):
        with pytest.raises(InputError, match=r"path inside .* Received: .* in list") as caught:
            path_inside(tmp_path, name, "list")
        assert repr(name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["Screenshot at 3.00.00\u202fPM.png", "a\u00a0b.jpg", "写真\u3000一.jpg", "👩\u200d🚀.jpg"]
)
def test_spaces_of_all_widths_and_joined_emojis_are_names(tmp_path, name):
    assert path_inside(tmp_path, name, "list") == tmp_path / name


@pytest.mark.parametrize("name", ["b\0.jpg", "b\n.jpg", "\x1b[2Jb.jpg", "b\x85.jpg", "b\ud800.jpg"])
def test_control_characters_are_no_part_of_a_name(tmp_path, name):
    with pytest.raises(InputError) as caught:
        path_inside(tmp_path, name, "list")
    assert (
        str(caught.value) == f"the name of an image must be text without control characters. Received: {name!r} in list"
    )
    assert str(caught.value).isprintable()


def test_missing_files_are_found_by_position_wherever_they_lie(tmp_path):
    present, absent, elsewhere = tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "absent" / "a.jpg"
    folder = tmp_path / "c.jpg"
    present.touch()
    folder.mkdir()
    files = ImageFiles(np.array([str(each) for each in (present, absent, present, elsewhere, folder)], object))
    assert missing_files(files) == [1, 3, 4]
    with pytest.raises(InputError, match=r"b.jpg missing in split 'train', and 2 more"):
        require_existing(files, "split 'train'")
    require_existing(files[[0, 2]], "split 'train'")


def partial(labels, name):
    """The dataset with a split in which NaN is unknown."""
    labels = np.array(labels, np.float32)
    return with_split(name, Split(np.zeros((len(labels), 2), np.float32), labels))


def test_labels_of_which_some_are_unknown_and_none_0_are_refused(caplog):
    ones = {name: vectors([[1, 1]]) for name in GOOD.splits}
    never = dataclasses.replace(
        GOOD, splits={**ones, "train": partial([[1, np.nan], [np.nan, 1]], "train").splits["train"]}
    )
    with pytest.raises(InputError) as caught:
        check_dataset(never)
    assert str(caught.value) == (
        "labels of which some are unknown (empty, ?, -1 or NaN) must be 0 for some sample: write 0, not -1 or nothing, where "
        "a sample lacks a label. Received: never 0 in dataset 'mine': 'cat', 'dog'"
    )
    one = dataclasses.replace(never, splits={**never.splits, "test": vectors([[1, 1], [0, 1]])})
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        check_dataset(one)
    assert caplog.messages == [
        "mine: unknown for some samples and 0 for none, so that any model is right about them: 'dog'"
    ]


def test_a_label_that_is_0_in_another_split_may_be_unknown(caplog):
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        check_dataset(partial([[1, np.nan], [np.nan, 1], [1, 1]], "train"))  # test has the zeros
    assert caplog.messages == []
