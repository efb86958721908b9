"""What is said of a dataset, held against counts made by hand."""

import dataclasses

import numpy as np
import pytest

from mulsupcon_tf.datasets import survey
from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.datasets.images.image_csv import load_csv
from tests.datasets.photo_folders import write_photo


def dataset_of(train, validation, test, names=("sea", "sky"), kind="vector"):
    """Vectors that are all different, or images of one pixel, with these rows of labels."""
    splits, number = {}, 0
    for name, rows in (("train", train), ("validation", validation), ("test", test)):
        shape = (len(rows), 3) if kind == "vector" else (len(rows), 1, 1, 3)
        inputs = (number + np.arange(3 * len(rows))).reshape(shape)
        splits[name] = Split(inputs.astype(np.float32 if kind == "vector" else np.uint8), np.array(rows, np.uint8))
        number += inputs.size
    return MultiLabelDataset("npz", kind, names, splits)


LARGE = dataset_of([[1, 0], [0, 1], [1, 1], [0, 0]] * 100, [[1, 1]] * 60, [[1, 0], [0, 1]] * 40)


def test_the_three_lines_hold_the_counts():
    size, labels, precision = survey.summary_lines(
        dataset_of([[1, 0]] * 12 + [[1, 1]] * 3, [[1, 0]] * 4, [[0, 0], [1, 1]])
    )
    assert size == "data: npz, 21 vectors (15 train, 4 validation, 2 test), 2 labels, 1.1 a sample"  # 24 labels
    assert labels == (
        "labels in train: 'sea' is the most frequent (15), 'sky' the rarest (3); 1 of 2 with fewer than 10 samples"
    )
    assert precision.startswith("one sample is 25 points of precision@1 on validation, 50 on test; ")


def test_the_table_counts_each_label_in_each_split():
    lines = survey.label_table(dataset_of([[1, 0]] * 2 + [[0, 1]] * 6, [[0, 1]], [[1, 1]], names=("a", "sea and sky")))
    assert [line.split() for line in lines] == [
        ["label", "train", "validation", "test"],
        ["sea", "and", "sky", "6", "1", "1", "#" * survey.BAR_WIDTH],
        ["a", "2", "0", "1", "#" * (survey.BAR_WIDTH // 3)],
    ]
    assert len({line.index("test") + 4 for line in lines[:1]} | {line.index("  #") for line in lines[1:]}) == 1


def test_of_many_labels_both_ends_are_shown():
    count = survey.MOST_BARS + 5
    rows = np.triu(np.ones((count, count), np.uint8))  # label k is carried by k + 1 samples
    lines = survey.label_table(dataset_of(rows, rows[:1], rows[:1], names=tuple(f"n{k}" for k in range(count))))
    assert len(lines) == 1 + survey.MOST_BARS + 1
    half = survey.MOST_BARS // 2
    assert lines[half + 1] == "... 5 more labels ..."
    assert [line.split()[0] for line in (lines[1], lines[half], lines[half + 2], lines[-1])] == [
        "n64",
        "n35",
        "n29",
        "n0",
    ]


def test_nothing_is_found_where_nothing_is_odd():
    assert survey.findings(LARGE) == []


def finding(dataset, start, **options):
    (line,) = [line for line in survey.findings(dataset, **options) if line.startswith(start)]
    return line


def test_names_that_may_be_several_labels_are_named():
    odd = dataclasses.replace(LARGE, label_names=("sea,sky", "dog"))
    assert finding(odd, "names that hold").endswith("may be several labels: 'sea,sky'")
    assert "--label_separator" in finding(dataclasses.replace(odd, name="csv"), "names that hold")


def test_one_label_a_sample_is_said():
    assert finding(dataset_of([[1, 0], [0, 1]] * 200, [[1, 0]] * 60, [[0, 1]] * 60), "no sample has more than one")


def test_rare_labels_and_those_that_are_everywhere_are_named():
    rare = dataset_of([[1, 1]] * 9 + [[0, 1]] * 91, [[1, 1]] * 5 + [[0, 1]] * 60, [[1, 1]] * 4 + [[0, 1]] * 60)
    lines = [line for line in survey.findings(rare) if line.startswith("labels with")]
    assert lines == [
        "labels with fewer than 10 samples in train, 1 of 2: 'sea'; they are hardly learnt",
        "labels with fewer than 5 samples in test, 1 of 2: 'sea'; their scores are chance",
    ]
    assert finding(rare, "labels that every sample").endswith("teach nothing: 'sky'")


@pytest.mark.parametrize(
    ("sizes", "start"),
    [((400, 49, 60), "the best epoch and the thresholds"), ((400, 60, 49), "the result is judged on 49")],
)
def test_small_splits_are_said_with_what_one_sample_is_worth(sizes, start):
    small = dataset_of(*([[1, number % 2] for number in range(size)] for size in sizes))
    assert "one of them is 2 points of precision@1" in finding(small, start)


def test_few_images_are_too_few_for_random_weights_alone():
    rows = [[1, 1], [0, 1]]
    few = dataset_of(rows * 149, rows * 30, rows * 30, kind="image")
    assert finding(few, "298 images of train are too few")
    assert not [line for line in survey.findings(few, pretrained_weights=True) if "too few" in line]
    many = dataset_of(rows * 150, rows * 30, rows * 30, kind="image")
    assert not [line for line in survey.findings(many) if "too few" in line]


def test_copies_are_counted_within_and_across_splits():
    train, test = LARGE.splits["train"], LARGE.splits["test"]
    inputs, other = train.inputs.copy(), test.inputs.copy()
    inputs[5] = inputs[1]  # the same labels
    inputs[7] = inputs[2]  # none, where the other has both
    other[3] = inputs[0]
    copied = dataclasses.replace(
        LARGE,
        splits=LARGE.splits
        | {"train": dataclasses.replace(train, inputs=inputs), "test": dataclasses.replace(test, inputs=other)},
    )
    assert finding(copied, "copies") == (
        "copies: 3 samples with the content of another; 1 content in more than one split, 2 with different labels; "
        "such as row 0 (train) = row 3 (test)"
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rows = [f"album/{number}.jpg,{'sea' if number % 2 else 'sea;sky'}" for number in range(20)]
    for number in range(20):
        write_photo(folder / "album" / f"{number}.jpg", number % 12)  # from 12 on copies of the first ones
    (folder / "labels.csv").write_text("\n".join(["file,labels", *rows, ""]))
    return folder


def test_copies_of_files_are_found_by_content_and_named_below_the_folder(photos):
    line = finding(load_csv("csv", str(photos), 0), "copies: 8 samples with the content of another")
    assert line.count("album/") == 2 and str(photos) not in line


def test_images_that_the_table_does_not_name_are_listed(photos):
    for name in ("b.PNG", "album/a.webp", ".hidden/c.jpg"):
        write_photo(photos / name)
    (photos / "album" / "notes.txt").write_text("no image")
    dataset = load_csv("csv", str(photos), 0)
    try:
        assert survey.unlisted_images(dataset, str(photos)) == ["album/a.webp", "b.PNG"]
    finally:
        for name in ("b.PNG", "album/a.webp", ".hidden/c.jpg"):
            (photos / name).unlink()


def test_a_sample_of_which_nothing_is_known_is_not_one_without_labels():
    dataset = dataset_of([[1, 0], [0, 0]], [[1, 1]], [[0, 1]])
    rows = np.array([[1, 0], [0, 0], [0, np.nan], [np.nan, np.nan]], np.float32)
    train = Split(np.arange(12, dtype=np.float32).reshape(4, 3), rows)
    lines = survey.overview(dataclasses.replace(dataset, splits={**dataset.splits, "train": train}))
    assert lines[2:] == [
        "without any label, which says that none applies: 2 in train, 0 in validation, 0 in test",
        "unknown labels, left out of losses and metrics: 3 in train, 0 in validation, 0 in test",
    ]
