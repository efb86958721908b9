import logging

import numpy as np
import pytest

from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.datasets.vectors.arff import ArffFiles, find_files, load_arff, read_dataset, read_label_names
from mulsupcon_tf.utils.errors import InputError
from tests.datasets.splits_by_hash import place, rows_by_split

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


@pytest.mark.parametrize("name", ["arff", "emotions"])  # one's own, and one of Mulan's that comes in one file
def test_rows_that_are_added_or_stand_in_another_order_move_no_other(tmp_path, name):
    def places(rows):
        lines = "".join(f"{i % 2},{i},{i % 3 % 2},0,on,red,{(i + 1) % 2}\n" for i in rows)
        write(tmp_path, **{name: HEADER + lines, f"{name}_xml": XML})
        dataset = load_dataset(name, data_dir=str(tmp_path))
        inputs = np.concatenate([split.inputs for split in dataset.splits.values()])
        assert sorted(inputs[:, 0]) == sorted(rows)
        return rows_by_split(dataset), inputs

    before, inputs = places(range(52))
    after, _ = places(range(59, -1, -1))
    assert len(before) == 52 and before.items() <= after.items()
    for row in inputs:
        assert before[str(row.tolist())] == place(row.astype("<f4").tobytes())


def test_labels_do_not_count_for_the_split(tmp_path):
    header = "@relation r\n@attribute size numeric\n@attribute cat {0,1}\n@data\n"
    xml = '<labels><label name="cat"/></labels>'
    before, after = (
        rows_by_split(load_arff("arff", write(tmp_path, small=header + rows, small_xml=xml), 0))
        for rows in ("".join(f"{i},{label(i)}\n" for i in range(40)) for label in (lambda i: i % 2, lambda i: 1))
    )
    assert before == after


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["Small-Train.ARFF", "small-TEST.arff", "SMALL.xml"], ("Small-Train.ARFF", "small-TEST.arff")),
        (["small-train-sparse.arff", "small-test-sparse.arff", "small.xml"], ("small-train-sparse.arff",)),
        (["small-sparse-train.arff", "small-sparse-test.arff", "small.xml"], ("small-sparse-train.arff",)),
        (["small-train.arff", "small-test.arff", "small-train-sparse.arff", "small.xml"], ("small-train-sparse.arff",)),
        (["small.arff", "small-train.arff", "small-test.arff", "small.xml"], ("small-train.arff", "small-test.arff")),
        (["small.arff", "small.xml"], ("small.arff", None)),
        (["small.arff", "small.xml", "._small.arff", "._small.xml", ".old.arff"], ("small.arff", None)),
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
    "missing number": (
        {"small_test": HEADER + "0,?,0,0,on,red,0\n"},
        "missing .*small-test.arff, line 10 .row 1., attribute 'size'",
    ),
    "row cut after a comma before a label": (
        {"small_test": HEADER + "?,1,0,0,on,red,1\n?,1,0,0,on,red,"},
        "missing .*small-test.arff, line 11 .row 2., attribute 'bird'",
    ),
    "label left out": (
        {"small_train": HEADER + TRAIN + ",1,?,0,on,red,1\n"},
        "missing .*small-train.arff, line 15 .row 6., attribute 'cat'",
    ),
    "other attribute": (
        {"small_test": replaced("size numeric", "length numeric") + TEST},
        "attribute 2 is 'size' numeric and 'length' numeric in .*small-train.arff and .*small-test.arff",
    ),
    "other values": (
        {"small_test": replaced("{off,on}", "{on,off}") + TEST},
        r"attribute 5 is 'switch' \{off,on\} and 'switch' \{on,off\}",
    ),
    "string that repeats": (
        {
            "small": replaced("@data", "@attribute note string\n@data")
            + "1,0.5,0,0,on,red,1,x\n0,1.5,1,1,off,blue,1,x\n",
            "small_train": None,
            "small_test": None,
        },
        "a string may only name the samples, each by another. Received: .*small.arff, string attribute 'note'",
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
        load_arff("arff", write(tmp_path, **{key: text for key, text in (good | files).items() if text is not None}), 0)
    assert "\n" not in str(caught.value)


def named_rows(first, last, declared=None):
    """A dataset whose samples have a name each; the names go from `first` to `last`."""
    names = [f"P{number:03d}" for number in range(first, last)]
    kind = "string" if declared is None else "{" + ",".join(declared) + "}"
    header = replaced("@attribute size", f"@attribute protein {kind}\n@attribute size")
    return header + "".join(f"{i % 2},{name},{i},1,0,on,red,1\n" for i, name in enumerate(names))


@pytest.mark.parametrize("declared", [None, [f"P{number:03d}" for number in range(12)]], ids=["string", "nominal"])
def test_what_names_the_samples_is_no_input(tmp_path, declared, caplog):
    files = {"small_train": named_rows(0, 8, declared), "small_test": named_rows(8, 12, declared), "small_xml": XML}
    dataset = load_arff("arff", write(tmp_path, **files), 0)
    # size, flag, switch, colour=red, =green, =blue
    np.testing.assert_array_equal(dataset.splits["test"].inputs, [[size, 0, 1, 1, 0, 0] for size in range(4)])
    assert (
        "arff: attribute 'protein' has another value in each row: it names the samples and is no input"
        in caplog.messages
    )


def test_a_nominal_attribute_with_a_value_for_each_of_a_few_rows_stays_an_input(tmp_path):
    names = [f"P{number:03d}" for number in range(6)]
    files = {"small_train": named_rows(0, 4, names), "small_test": named_rows(4, 6, names), "small_xml": XML}
    dataset = load_arff("arff", write(tmp_path, **files), 0)
    np.testing.assert_array_equal(dataset.splits["test"].inputs[:, :6], np.eye(6)[4:])


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "ISO-8859-2", "UTF-8"])
def test_the_encoding_of_the_xml_is_that_of_an_arff_file_that_is_no_utf_8(tmp_path, encoding):
    label = "łąka" if encoding == "ISO-8859-2" else "café"
    text = replaced("cat {0,1}", f"{label} {{0,1}}") + TRAIN
    # A list in UTF-8 beside Latin-1: they are often written by different programs.
    (tmp_path / "small.arff").write_bytes(text.encode("ISO-8859-1" if encoding == "UTF-8" else encoding))
    xml = XML.replace('"cat"', f'"{label}"').replace("utf-8", encoding)
    (tmp_path / "small.xml").write_bytes(xml.encode(encoding))
    assert load_arff("arff", str(tmp_path), 0).label_names[0] == label


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
