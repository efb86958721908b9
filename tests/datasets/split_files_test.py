import logging

import pytest

from mulsupcon_tf.datasets.split_files import find_split_files
from mulsupcon_tf.utils.errors import InputError


def find(folder, *names):
    for name in names:
        (folder / name).touch()
    return {split: path.name for split, path in find_split_files(folder, (".h5", ".hdf5")).items()}


TRAIN = (
    "train.h5",
    "a_train.hdf5",
    "latest_train.h5",
    "festival-train.h5",
    "contest train.h5",
    "yeastTrain.h5",
    "XTrain.h5",
    "TRAIN.H5",
    "developers_training.h5",
    "train2017.h5",
    "rétrain_train.h5",
    "validated.train.h5",
)


@pytest.mark.parametrize("name", TRAIN)
def test_a_split_is_recognised_by_a_whole_word_and_by_no_other_letters(tmp_path, name):
    test, validation = ("latest_test.h5", "festival_val.h5")
    assert find(tmp_path, name, test, validation) == {"train": name, "test": test, "validation": validation}


@pytest.mark.parametrize("word", ["val", "valid", "validation", "dev", "Val"])
def test_validation_has_many_names(tmp_path, word):
    assert find(tmp_path, "a-train.h5", "a-test.h5", f"a-{word}.h5")["validation"] == f"a-{word}.h5"


@pytest.mark.parametrize("name", ["trainval.h5", "a_train_val.h5", "a-val-train.h5", "TrainVal.h5", "train+dev.h5"])
def test_train_and_validation_in_one_file_are_train(tmp_path, name):
    assert find(tmp_path, name, "test.h5", "val.h5") == {"train": name, "test": "test.h5"}
    assert find(tmp_path, "train.h5") == {"train": "train.h5", "test": "test.h5", "validation": "val.h5"}


def test_hidden_and_other_files_do_not_count_and_what_names_no_split_is_reported(tmp_path, caplog):
    names = ("._a_train.h5", ".a_test.h5", "train.txt", "train", "pretrained.h5", "notes.h5", "train.h5", "test.h5")
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        assert find(tmp_path, *names) == {"train": "train.h5", "test": "test.h5"}
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: not read, since no word of the name says which split it is: notes.h5, pretrained.h5"
    ]


BAD = {
    "no test": (["latest_train.h5"], "with the word 'test' in its name. Received: none in "),
    "no train": (["a_test.h5"], "one .h5 or .hdf5 file with the word 'train' in its name. Received: none in "),
    "letters of other words": (
        ["pretrain.h5", "test.h5"],
        "the word 'train' .*Received: none in .*, beside pretrain.h5$",
    ),
    "two trains": (["a_train.h5", "b_train.hdf5", "a_test.h5"], "'train' .*Received: a_train.h5, b_train.hdf5 in"),
    "two of one word": (["train.h5", "training.h5", "test.h5"], "'train' .*Received: train.h5, training.h5 in"),
    "two validations": (["train.h5", "test.h5", "val.h5", "dev.h5"], "'val' .*Received: dev.h5, val.h5 in"),
    "two trainvals": (["trainval.h5", "train_val.h5", "test.h5"], "'trainval' .*Received: train_val.h5, trainval.h5"),
    "all in one": (
        ["a_train_val_test.h5"],
        "of one split.*Received: train and val and test in the name of .*a_train_v",
    ),
    "train and test": (["traintest.h5", "trainTest.h5"], "of one split.*Received: train and test in the name"),
    "trainval and test": (["trainval-test.h5"], "of one split.*Received: test and trainval in the name"),
}


@pytest.mark.parametrize(("names", "message"), BAD.values(), ids=BAD)
def test_missing_and_ambiguous_files_are_one_line(tmp_path, names, message):
    with pytest.raises(InputError, match=message) as caught:
        find(tmp_path, *names)
    assert "\n" not in str(caught.value)
