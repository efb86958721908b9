import logging

import numpy as np
import pytest

from mulsupcon_tf.datasets.arff import ArffFiles, find_files, load_arff, read_dataset, read_label_names
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.errors import InputError

XML = """<?xml version="1.0" encoding="utf-8"?>
<labels xmlns="http://mulan.sourceforge.net/labels">
<label name="bird"><label name="Swainson's Thrush"></label></label>
<label name="cat"></label>
</labels>
"""
# Labels first, in the middle and last, in another order than in the XML; every kind of nominal attribute.
HEADER = """@relation small
@attribute cat {0,1}
@attribute size numeric
@attribute 'Swainson\\'s Thrush' {0,1}
@attribute flag {1,0}
@attribute switch {off,on}
@attribute colour {red,green,blue}
@attribute bird numeric
@data
"""
TRAIN = "1,0.5,0,0,on,red,1\n0,1.5,1,1,off,blue,1\n0,2.5,0,1,on,green,0\n1,3.5,0,0,off,red,0\n0,4.5,0,0,off,red,0\n"
TEST = "{1 7,3 0,4 on,6 1}\n{0 1,2 1}\n"


def write(folder, **files):
    """Writes small_train="..." as small-train.arff and small_xml as small.xml."""
    for key, text in files.items():
        name = key.replace("_", "-") + ".arff"
        (folder / name.replace("-xml.arff", ".xml")).write_text(text)
    return str(folder)


def test_columns_values_and_names(tmp_path):
    folder = write(tmp_path, small_train=HEADER + TRAIN, small_test=HEADER + TEST, small_xml=XML)

    dataset = load_arff("arff", folder, seed=0)

    assert (dataset.name, dataset.kind) == ("arff", "vector")
    assert dataset.label_names == ("cat", "Swainson's Thrush", "bird")
    test = dataset.splits["test"]
    # size; flag as its number; switch as its position; colour=red, =green, =blue
    np.testing.assert_array_equal(test.inputs, [[7, 0, 1, 1, 0, 0], [0, 1, 0, 1, 0, 0]])
    np.testing.assert_array_equal(test.labels, [[0, 0, 1], [1, 1, 0]])
    assert (test.inputs.dtype, test.labels.dtype, test.distributions) == (np.float32, np.uint8, None)
    rows = {
        tuple(np.concatenate(row))
        for name in ("train", "validation")
        for row in zip(dataset.splits[name].inputs, dataset.splits[name].labels, strict=True)
    }
    assert rows == {
        (0.5, 0, 1, 1, 0, 0, 1, 0, 1),
        (1.5, 1, 0, 0, 0, 1, 0, 1, 1),
        (2.5, 1, 1, 0, 1, 0, 0, 0, 0),
        (3.5, 0, 0, 1, 0, 0, 1, 0, 0),
        (4.5, 0, 0, 1, 0, 0, 0, 0, 0),
    }
    assert [len(dataset.splits[name]) for name in ("train", "validation")] == [4, 1]


def test_an_undivided_file_is_split_the_same_way_each_time(tmp_path):
    rows = "".join(f"{i % 2},{i},{i % 3 % 2},0,on,red,{(i + 1) % 2}\n" for i in range(40))
    folder = write(tmp_path, small=HEADER + rows, small_xml=XML)

    first, second = load_arff("arff", folder, 0), load_arff("arff", folder, 0)

    assert {name: len(split) for name, split in first.splits.items()} == {"train": 24, "validation": 6, "test": 10}
    sizes = np.concatenate([split.inputs[:, 0] for split in first.splits.values()])
    assert sorted(sizes) == list(range(40))
    for name in first.splits:
        np.testing.assert_array_equal(first.splits[name].inputs, second.splits[name].inputs)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["Small-Train.ARFF", "small-TEST.arff", "SMALL.xml"], ("Small-Train.ARFF", "small-TEST.arff")),
        (["small-train-sparse.arff", "small-test-sparse.arff", "small.xml"], ("small-train-sparse.arff",)),
        (["small-sparse-train.arff", "small-sparse-test.arff", "small.xml"], ("small-sparse-train.arff",)),
        (["small-train.arff", "small-test.arff", "small-train-sparse.arff", "small.xml"], ("small-train-sparse.arff",)),
        (["small.arff", "small-train.arff", "small-test.arff", "small.xml"], ("small-train.arff", "small-test.arff")),
        (["small.arff", "small.xml"], ("small.arff", None)),
        (["tmc-500-train.arff", "tmc-500-test.arff", "tmc-500.xml"], ("tmc-500-train.arff", "tmc-500-test.arff")),
    ],
)
def test_files_are_found_by_name(tmp_path, names, found):
    for name in names:
        (tmp_path / name).touch()
    files = find_files(tmp_path)
    assert (files.train.name, files.test and files.test.name)[: len(found)] == found
    assert files.labels.name.lower() in [name.lower() for name in names]


def test_a_stem_picks_one_of_several_datasets(tmp_path):
    for name in ("a-train.arff", "a-test.arff", "a.xml", "b.arff", "b.xml"):
        (tmp_path / name).touch()
    assert find_files(tmp_path, "B") == ArffFiles(tmp_path / "b.arff", None, tmp_path / "b.xml")
    assert find_files(tmp_path, "c") is None
    with pytest.raises(InputError, match=r"one ARFF dataset. Received: a, b in"):
        find_files(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "Received: no .arff file in"),
        (["small.txt", "small.xml"], "Received: no .arff file in"),
        (["small-train.arff", "small.xml"], "must come together"),
        (["small-train.arff", "small-test.arff", "other.xml"], "listed in small.xml. Received: no such file"),
    ],
)
def test_missing_files(tmp_path, names, message):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=message):
        load_arff("arff", str(tmp_path), 0)


def replaced(old, new):
    assert old in HEADER
    return HEADER.replace(old, new)


BAD = {
    "label absent": (
        {"small_xml": XML.replace('"cat"', '"cats"')},
        "every label of small.xml .*small-train.arff. Received: 'cats' .nearest attribute: 'cat'",
    ),
    "only labels": (
        {
            "small_train": "@relation r\n@attribute a {0,1}\n@data\n1\n",
            "small_xml": '<labels><label name="a"/></labels>',
        },
        "attributes that are no labels",
    ),
    "numeric label": (
        {"small_train": HEADER + TRAIN.replace("blue,1", "blue,0.5")},
        "must be 0 or 1. Received: 0.5 for 'bird' in .*small-train.arff, line 11$",
    ),
    "nominal label": (
        {"small_train": replaced("cat {0,1}", "cat {0,1,2}") + TRAIN + "2,0,0,0,on,red,0\n"},
        "must be 0 or 1. Received: 2 for 'cat' in .*small-train.arff, line 15$",
    ),
    "label in words": (
        {"small_train": replaced("cat {0,1}", "cat {no,yes}") + "yes,0,0,0,on,red,0\n"},
        "must be 0 or 1. Received: yes for 'cat'",
    ),
    "missing label": (
        {"small_test": HEADER + "?,0,0,0,on,red,0\n"},
        "missing .*small-test.arff, line 10 .row 1., attribute 'cat'",
    ),
    "other attribute": (
        {"small_test": replaced("size numeric", "length numeric") + TEST},
        "attribute 2 is 'size' numeric and 'length' numeric in .*small-train.arff and .*small-test.arff",
    ),
    "other values": (
        {"small_test": replaced("{off,on}", "{on,off}") + TEST},
        r"attribute 5 is 'switch' \{off,on\} and 'switch' \{on,off\}",
    ),
    "other number": (
        {"small_test": replaced("@data", "@attribute x real\n@data") + TEST},
        "Received: 7 and 8 attributes",
    ),
    "never positive": ({"small_test": HEADER + "{1 1}\n", "small_train": HEADER + "{1 1}\n{1 2}\n"}, "none for 'cat'"),
}


@pytest.mark.parametrize(("files", "message"), BAD.values(), ids=BAD)
def test_broken_datasets_are_one_line(tmp_path, files, message):
    good = {"small_train": HEADER + TRAIN, "small_test": HEADER + TEST, "small_xml": XML}
    with pytest.raises(InputError, match=message) as caught:
        load_arff("arff", write(tmp_path, **{**good, **files}), 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be XML. Received: .*small.xml"),
        ('<labels><label name="a">', "must be XML. Received: .*small.xml .*line 1"),
        ('<?xml version="1.0" encoding="klingon"?><labels/>', "must be XML"),
        ("<labels></labels>", "Received: none in .*small.xml"),
        ('<labels><label name="a"/><label/></labels>', "Received: one without a name"),
        ("""<labels><label name="a"/><label name="'a'"/></labels>""", "Received: one twice"),
    ],
)
def test_broken_label_lists(tmp_path, text, message):
    path = tmp_path / "small.xml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_label_names(path)


def test_a_missing_label_list(tmp_path):
    with pytest.raises(InputError, match=r"absent.xml \(No such file or directory\)"):
        read_label_names(tmp_path / "absent.xml")


def test_real_labels_and_inputs_against_plain_parsing(shared_data):
    """Enron's XML orders labels otherwise than its ARFF does."""
    folder = shared_data / "mulan" / "enron"
    files = ArffFiles(folder / "enron-train.arff", folder / "enron-test.arff", folder / "enron.xml")
    dataset = read_dataset("enron", files, 0)

    lines = files.test.read_text().splitlines()
    attributes = [line.split()[1] for line in lines if line.startswith("@attribute")]
    rows = [
        {attributes[int(pair.split()[0])] for pair in line.strip("{}").split(",")}
        for line in lines
        if line.startswith("{")
    ]
    split = dataset.splits["test"]
    listed = files.labels.read_text()
    features = [name for name in attributes if f'<label name="{name}">' not in listed]
    assert len(features) == 1001
    for index, row in enumerate(rows):
        assert {n for n, on in zip(dataset.label_names, split.labels[index], strict=True) if on} == row - set(features)
        assert {n for n, on in zip(features, split.inputs[index], strict=True) if on} == row & set(features)


def test_labels_that_only_the_test_split_has_are_a_warning(shared_data, caplog):
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        dataset = load_dataset("enron", data_dir=str(shared_data / "mulan"))
    never = np.flatnonzero(dataset.splits["train"].labels.sum(axis=0) == 0)
    assert len(never)
    assert sum("no positive in train" in record.getMessage() for record in caplog.records) == 1
    assert all(repr(dataset.label_names[index]) in caplog.text for index in never)
