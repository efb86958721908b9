import collections
import logging

import numpy as np
import pytest

from mulsupcon_tf.datasets.base import ImageFiles, Split
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.datasets.shared_samples import require_separate_splits
from mulsupcon_tf.utils.errors import InputError

RNG = np.random.default_rng(0)


def check(drawn=(), **inputs):
    splits = {name: Split(each, np.ones((len(each), 1))) for name, each in inputs.items()}
    require_separate_splits("mine", splits, drawn)


def vectors(count):
    return RNG.normal(size=(count, 3)).astype(np.float32)


def images(count):
    return RNG.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("draw", [vectors, images])
@pytest.mark.parametrize("size", [5, 12, 200])
def test_a_split_that_is_a_copy_of_another_or_part_of_it_is_refused(draw, size):
    train, rest = draw(size), draw(size)
    more = np.concatenate([train, draw(3 * size)])
    shuffled = RNG.permutation(train)
    for splits, message in (
        (
            {"train": train, "validation": train, "test": rest},
            f"{size} of {size} samples of validation are also in train",
        ),
        ({"train": train, "validation": rest, "test": shuffled}, f"{size} of {size} samples of test are also in train"),
        (
            {"train": rest, "validation": train, "test": more},
            f"{size} of {size} samples of validation are also in test",
        ),
        ({"train": train, "validation": rest, "test": more}, f"{size} of {size} samples of train are also in test"),
        (
            {"train": more, "validation": shuffled, "test": rest},
            f"{size} of {size} samples of validation are also in train",
        ),
    ):
        with pytest.raises(InputError, match=rf"must not share samples. Received: {message} of 'mine'$"):
            check(**splits)


def test_more_than_half_of_a_split_is_a_copy_and_less_is_reported(caplog):
    train, rest = vectors(300), vectors(100)
    with pytest.raises(InputError, match="60 of 100 samples of test are also in train"):
        check(train=train, validation=rest, test=np.concatenate([train[:60], vectors(40)]))
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        check(train=train, validation=rest, test=np.concatenate([train[:30], rest[:2], vectors(68)]))
    assert [record.getMessage() for record in caplog.records] == [
        "mine: by their inputs, 30 of 100 samples of test are also in train; 2 of 100 samples of test are also in validation"
    ]


def test_rows_that_repeat_themselves_within_a_split_are_no_copies(caplog):
    """Eight features of 0 or 1: almost every row of test is also in train, by nature."""
    train, validation, test = (RNG.integers(0, 2, (count, 8)).astype(np.float32) for count in (2000, 300, 500))
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        check(train=train, validation=validation, test=test)
    assert "500 of 500 samples of test are also in train" in caplog.text


def test_what_is_drawn_may_hold_equals_of_what_is_left_and_tells_it(caplog):
    twice = np.repeat(vectors(20), 2, axis=0)
    parts = {"train": twice[::2], "validation": twice[1::2], "test": vectors(9)}
    with pytest.raises(InputError, match="20 of 20 samples of validation are also in train"):
        check(**parts)
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        check(drawn={"validation"}, **parts)
    assert "20 of 20 samples of validation are also in train" in caplog.text
    with pytest.raises(InputError, match="20 of 20 samples of test are also in train"):
        check(drawn={"validation"}, train=twice[::2], validation=vectors(5), test=twice[1::2])


@pytest.mark.parametrize("kinds", [1, 2, 10, 50, 100, 1000])
def test_samples_of_one_source_are_hardly_ever_taken_for_copies(kinds):
    """Whatever the share of rows that repeat, and however small the splits."""
    rng = np.random.default_rng(0)
    refused = 0
    for count in (3, 6, 10, 30, 100, 300):
        for _ in range(50):
            rows = rng.integers(0, kinds, (count, 1)).astype(np.float32)
            train, validation, test = np.split(rows, [count - 2 * max(1, count // 5), count - max(1, count // 5)])
            try:
                check(train=train, validation=validation, test=test)
            except InputError:
                refused += 1
    assert refused <= 3  # of 300


def test_an_image_file_belongs_to_one_split():
    def files(*names):
        return ImageFiles(np.array([f"/photos/{name}.jpg" for name in names], object))

    check(train=files("a", "b"), validation=files("c"), test=files("d", "e"))
    with pytest.raises(InputError, match=r"1 of 3 samples of test are also in train of 'mine', such as /photos/b.jpg$"):
        check(train=files("a", "b"), validation=files("c"), test=files("d", "b", "e"))


@pytest.mark.parametrize("link", ["folder", "file", "folder above", "link to a link"])
def test_an_image_file_that_is_reached_by_a_link_is_the_same(tmp_path, link):
    def files(folder, *names):
        return ImageFiles(np.array([str(tmp_path / folder / name) for name in names], object))

    for folder in ("train", "valid"):
        (tmp_path / "all" / folder).mkdir(parents=True)
        for name in ("a.jpg", "b.jpg"):
            (tmp_path / "all" / folder / name).touch()
    test = "test"
    if link == "folder":
        (tmp_path / "test").symlink_to("all/valid")
    elif link == "folder above":
        (tmp_path / "again").symlink_to("all")
        test = "again/valid"
    else:
        (tmp_path / "test").mkdir()
        (tmp_path / "test" / "a.jpg").touch()
        (tmp_path / "test" / "b.jpg").symlink_to("../all/valid/b.jpg" if link == "file" else "c.jpg")
        (tmp_path / "test" / "c.jpg").symlink_to("../all/valid/b.jpg")
    train, validation = files("all/train", "a.jpg", "b.jpg"), files("all/valid", "a.jpg", "b.jpg")
    check(train=train, validation=validation, test=files("other", "a.jpg"))
    with pytest.raises(
        InputError, match=rf"of 2 samples of test are also in validation of 'mine', such as {tmp_path}/"
    ):
        check(train=train, validation=validation, test=files(test, "a.jpg", "b.jpg"))


@pytest.mark.parametrize(
    ("name", "shared"),
    [("scene", 4), ("yeast", 0), ("enron", 55), pytest.param("delicious", 783, marks=pytest.mark.slow)],
)
def test_real_sets_report_their_number_of_equal_rows(shared_data, caplog, name, shared):
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        splits = load_dataset(name, data_dir=str(shared_data / "mulan")).splits
    seen = collections.Counter(tuple(row) for row in splits["train"].inputs.tolist())
    assert sum(tuple(row) in seen for row in splits["test"].inputs.tolist()) == shared
    message = f"{shared} of {len(splits['test'])} samples of test are also in train"
    assert (message in caplog.text) == (shared > 0)
