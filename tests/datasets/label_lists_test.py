import csv
import json
import logging
import random

import numpy as np
import pytest

from mulsupcon_tf.datasets.label_lists import read_label_lists
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.utils.errors import InputError

SURE = {";": ";", "|": "|", "newline": "\n", "tab": "\t", "；": "；", "、": "、", "｜": "｜", "¦": "¦"}
POSSIBLE = {",": ",", "，": "，", "/": "/", "\\": "\\", "&": "&", "#": "#", "+": "+", ":": ":", "space": " "}
NAMES = ("traffic light", "person", "AC/DC", "rock & roll", "Kuh", "木", "dog", "hot dog")
PLAIN = ("person", "car", "Kuh", "木", "dog", "tree")


def read(cells, separator=None):
    return read_label_lists(cells, [f"t.csv, line {number}" for number, _ in enumerate(cells, 2)], separator)


def samples(names, seed, count=24):
    """Random label sets, some empty; each name is once alone, so that each is known."""
    rng = random.Random(seed)
    drawn = [frozenset(rng.sample(names, rng.choice([0, 1, 1, 2, 2, 3, 4]))) for _ in range(count)]
    return [*drawn, *(frozenset([name]) for name in names)]


def joined(sets, character, rng):
    """As people type it: in any order, with spaces and an empty place here and there."""
    cells = []
    for labels in sets:
        parts = rng.sample(sorted(labels), len(labels)) + [""] * (rng.random() < 0.1)
        cells.append((character + rng.choice(["", " "])).join(parts))
    return cells


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("word", "character"), SURE.items(), ids=str)
def test_what_no_name_holds_separates_without_being_asked_for(word, character, seed):
    truth = samples(NAMES, seed)
    cells = joined(truth, character, random.Random(seed))
    assert read(cells) == truth == read(cells, word)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("word", "character"), POSSIBLE.items(), ids=str)
def test_what_names_hold_too_is_asked_for_and_then_separates(word, character, seed):
    truth = samples(PLAIN, seed)
    cells = joined(truth, character, random.Random(seed))
    assert read(cells, word) == truth
    with pytest.raises(InputError, match="labels must be separated by ';' or by what --label_sep") as caught:
        read(cells)
    whole = {cell for cell in cells if cell.strip(f" {character}")}
    assert f"--label_separator={word}" in str(caught.value).replace("'", "").replace('"', "")
    assert "would split it and make 6 labels of " in str(caught.value)
    assert len(whole) > 6
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    "write",
    [
        lambda labels: str(sorted(labels)),
        lambda labels: str(tuple(sorted(labels))),
        lambda labels: str(set(labels)),
        lambda labels: json.dumps(sorted(labels)),
        lambda labels: json.dumps(sorted(labels), ensure_ascii=False),
        lambda labels: str([np.str_(each) for each in sorted(labels)]),
        lambda labels: str([*np.array(sorted(labels) or [], str)]),
        lambda labels: f"[{', '.join(f'u{each!r}' for each in sorted(labels))}]",
        lambda labels: str(np.array(sorted(labels), object)),
        lambda labels: str(np.array(sorted(labels) or [], str)),
    ],
    ids=[
        "list",
        "tuple",
        "set",
        "JSON",
        "JSON as it is",
        "list of NumPy's texts",
        "unpacked",
        "Python 2",
        "NumPy objects",
        "NumPy texts",
    ],
)
def test_lists_in_brackets_are_read_as_their_writers_meant_them(write, seed):
    truth = samples((*NAMES, "St. John's", 'a "b"', "back\\slash", "sport|football", "x;y", "(a)", "u'"), seed)
    assert read([write(labels) for labels in truth]) == truth


def test_a_quoted_name_is_whole_unless_a_separator_is_given_or_its_pieces_are_names_too():
    assert read(['["sport|football", "sea"]']) == [{"sport|football", "sea"}]
    assert read(['["sport|football", "sea"]'], "|") == [{"sport", "football", "sea"}]
    cells = ['["sea|beach"]', '["sea"]', '["beach"]']
    with pytest.raises(
        InputError, match=r"Received: 'sea\|beach' in t.csv, line 2; --label_separator='\|' would split"
    ):
        read(cells)
    assert read(cells, ";") == [{"sea|beach"}, {"sea"}, {"beach"}]
    assert read(["['a;b']", "['a']", "['b']"]) == [{"a;b"}, {"a"}, {"b"}]


def test_the_missing_value_of_r_is_no_label_and_sodium_is_one(caplog):
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        assert read(["NA", "Na", "Na;NA", "na"]) == [set(), {"Na"}, {"Na"}, {"na"}]
    assert caplog.messages == ["'NA' is read as no label: 2 times, first in t.csv, line 2"]


def test_square_brackets_need_no_quotes_where_all_cells_have_them():
    assert read(["[cat, traffic light]", "[]", "[dog]"]) == [{"cat", "traffic light"}, set(), {"dog"}]
    assert read(["cat", "[unknown]"]) == [{"cat"}, {"[unknown]"}]  # a name


def test_what_programs_write_for_an_empty_cell_is_no_label_and_words_are_reported(caplog):
    empty = ["", "nan", "NaN", "None", "null", "N/A", "#N/A", "<NA>", "[]", "set()"]
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        assert read(["cat;None", *empty, "nan;"]) == [{"cat"}, *[set()] * 11]
        assert read(["cat/n/a", "n/a"], "/") == [{"cat", "n", "a"}, set()]  # a separator that is given is obeyed
    assert [record.getMessage() for record in caplog.records] == [
        "'None' is read as no label: 9 times, first in t.csv, line 2",
        "'n/a' is read as no label: 1 times, first in t.csv, line 3",
    ]


def test_a_separator_other_than_the_usual_is_reported(caplog):
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        read(["cat", "cat;dog"])
        read(["cat", "cat|dog"])
        assert read(["cat\r\ndog"]) == read(["cat\rdog"]) == [{"cat", "dog"}]
    assert [record.getMessage() for record in caplog.records] == [
        "labels are separated by '|', first in t.csv, line 3",
        *["labels are separated by newline, first in t.csv, line 2"] * 2,
    ]


def test_names_stay_whole():
    assert read(["hot dog", "traffic light", "dog"]) == [{"hot dog"}, {"traffic light"}, {"dog"}]
    assert read(["hot dog;hot;dog"]) == [{"hot dog", "hot", "dog"}]  # `;` is in use, so a space is none
    assert read(["AC/DC", "rock & roll", "C++", "#1"]) == [{"AC/DC"}, {"rock & roll"}, {"C++"}, {"#1"}]
    assert read(["red car", "red bus", "blue car", "blue bus"], ";")[0] == {"red car"}
    assert read(["tench, Tinca tinca", "cat"], ";") == [{"tench, Tinca tinca"}, {"cat"}]
    assert read(["tench, Tinca tinca;cat"]) == [{"tench, Tinca tinca", "cat"}]


def test_names_of_which_some_share_a_word_are_not_taken_for_lists():
    names = ["sports ball", "baseball bat", "baseball glove", "hot dog", "dog", "teddy bear", "bear", "tennis racket"]
    assert read(names) == [{name} for name in names]


BAD = {
    "a comma even once": (
        ["tench, Tinca tinca", "cat"],
        None,
        "'tench, Tinca tinca' in t.csv, line 2; --label_sep.*=, ",
    ),
    "a slip in one row": (["sea;beach", "sea,beach"], None, "Received: 'sea,beach' in t.csv, line 3"),
    "two separators": (["sea|beach", "sea;beach"], None, r"Received: ';' in t.csv, line 3 and '\|' in t.csv, line 2"),
    "not the one in use": (["sea|beach"], ",", r"Received: ,, which no cell holds; '\|' is in t.csv, line 2"),
    "a list among others": (["['sea']", "beach"], None, "all must be. Received: 'beach' in t.csv, line 3"),
    "a list that does not end": (["['sea']", "['sea', 'be"], None, "Received: .*'be.* in t.csv, line 3"),
    "a quote that does not end": (["['sea']", "['sea', 'be]"], None, "Received: .*'be.* in t.csv, line 3"),
    "a bracket for a blank": (["['sea','beach']", "['sea',('beach']"], None, "Received: .* in t.csv, line 3"),
    "no blank after a comma": (["['sea','beach']", "['sea',|'beach']"], None, "Received: .* in t.csv, line 3"),
    "two quotes in one item": (["['sea','beach']", "['it''s']"], None, "Received: .* in t.csv, line 3"),
    "a list in a list": (["['sea']", "[['sea', 'beach']]"], None, "Received: .* in t.csv, line 3"),
    "an unknown escape": (["['sea']", r"['\N{no}']"], None, "t.csv, line 3"),
    "lists in a list": (["['sea, beach']", "['sea']", "['beach']"], None, "Received: 'sea, beach' in t.csv, line 2"),
    **{
        f"separator {separator!r}": (["sea"], separator, "--label_separator must be a character such as")
        for separator in ("", " ", ", ", "comma", "x", "\t", "\n", "\0", "7")
    },
}


@pytest.mark.parametrize(("cells", "separator", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_decided_is_refused_in_one_line(cells, separator, message):
    with pytest.raises(InputError, match=message) as caught:
        read(cells, separator)
    assert "\n" not in str(caught.value)
    assert "Received: " in str(caught.value)


def test_a_given_separator_need_not_occur():
    assert read(["hot dog", "cat"], ",") == [{"hot dog"}, {"cat"}]
    assert read(["a|b"], ";") == [{"a|b"}]
    assert read(["a||b|c"], "||") == [{"a", "b|c"}]


@pytest.mark.parametrize(("word", "character"), {**SURE, **POSSIBLE}.items(), ids=str)
def test_real_tables_are_read_right_or_refused(shared_data, word, character):
    """Two tables: 374 keywords of Corel's photographs, and COCO's names with spaces."""
    with (shared_data / "corel5k_photos" / "labels.csv").open(encoding="utf-8", newline="") as file:
        corel = [frozenset(row["labels"].split(";")) for row in csv.DictReader(file)]
    coco = load_dataset("coco", data_dir=str(shared_data / "coco")).splits["test"].labels
    names = load_dataset("coco", data_dir=str(shared_data / "coco")).label_names
    for truth in (corel, [frozenset(names[column] for column in np.flatnonzero(row)) for row in coco]):
        cells = [character.join(sorted(labels)) for labels in truth]
        if word in SURE:
            assert read(cells) == truth
        else:
            with pytest.raises(InputError, match="labels must be separated by ';' or by what --label_separator says"):
                read(cells)
        if character != " " or truth is corel:  # else the names are torn apart, as asked
            assert read(cells, word) == truth
