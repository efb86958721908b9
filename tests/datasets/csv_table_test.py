import csv
import logging

import pytest

from mulsupcon_tf.datasets.csv_table import read_csv
from mulsupcon_tf.utils.errors import InputError


def write(folder, content):
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def with_mark(text, codec):
    return ("\ufeff" + text).encode(codec)


ENCODINGS = {
    "UTF-8": str.encode,
    "UTF-8 with mark": lambda text: with_mark(text, "utf-8"),
    "UTF-16 little": lambda text: with_mark(text, "utf-16-le"),
    "UTF-16 big": lambda text: with_mark(text, "utf-16-be"),
}


@pytest.mark.parametrize("encoded", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_encodings_line_ends_and_separators_give_the_same_table(tmp_path, encoded, end, delimiter):
    lines = [" key ,a b", 'Müller,"x,y;z"', "", ",", 'two,"1', '2"', "last,"]
    text = end.join(line if line.startswith(("Mü", "tw")) else line.replace(",", delimiter) for line in lines)
    text = text.replace("Müller,", f"Müller{delimiter}").replace("two,", f"two{delimiter}")
    table = read_csv(write(tmp_path, encoded(text)), key="key")
    assert table.columns == ("key", "a b")
    assert [(row.line, *row.cells) for row in table.rows] == [
        (2, "Müller", "x,y;z"),
        (5, "two", f"1{end}2"),
        (7, "last", ""),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_quote_behind_spaces_begins_a_quoted_text(tmp_path, delimiter):
    rows = [' "a,b;c"|  "key"', '1| "x,y;z"', ' "2"""|  3', "4| 5 6 "]
    table = read_csv(write(tmp_path, "\n".join(rows).replace("|", delimiter)), key="key")
    assert table.columns == ("a,b;c", "key")
    assert [row.cells for row in table.rows] == [("1", "x,y;z"), ('2"', "3"), ("4", "5 6")]


def test_a_column_name_may_hold_the_other_separator(tmp_path):
    assert read_csv(write(tmp_path, "a;b,key\n1,2\n"), key="key").columns == ("a;b", "key")
    assert read_csv(write(tmp_path, 'key;"a,b"\n1;2\n'), key="key").columns == ("key", "a,b")


def test_the_key_may_be_written_in_any_case_and_all_names_stay_as_they_are(tmp_path):
    assert read_csv(write(tmp_path, "A,KEY\n1,2\n"), key="key").columns == ("A", "KEY")


# What stands around `key,a` and the rows `1,2` and `3,4`, which must be all that is read.
AROUND = {
    "trailing cells, all": "key,a,,\n1,2,,\n3,4,,\n",
    "trailing cells of rows": "key,a\n1,2,\n3,4,,,\n",
    "an empty column inside": "key,,a\n1,,2\n3,,4\n",
    "an empty column that pandas named": "key,a,Unnamed: 2\n1,2,\n3,4,\n",
    "an index of pandas": ",key,a\n0,1,2\n1,3,4\n",
    "an index with gaps": ",key,a\n17,1,2\n4,3,4\n",
    "an index that went through pandas twice": "Unnamed: 0,key,a\n0,1,2\n0,3,4\n",
    "rows without content": "key,a\n,\n1,2\n\n , \n3,4\n,,\n",
}


@pytest.mark.parametrize("text", AROUND.values(), ids=AROUND)
def test_what_programs_add_around_a_table_is_left_out(tmp_path, caplog, text):
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        table = read_csv(write(tmp_path, text), key="key")
    assert (table.columns, [row.cells for row in table.rows]) == (("key", "a"), [("1", "2"), ("3", "4")])
    numbered = text.startswith((",key", "Unnamed"))
    assert ["is left out" in record.getMessage() for record in caplog.records] == [True] * numbered


BAD = {
    "empty": (b"", "no header in"),
    "only a BOM": (b"\xef\xbb\xbf", "no header in"),
    "blank first line": (b"\nkey,a\n", "no header in"),
    "no key": ("keys,a\n1,2\n", "must have a column 'key' and at least one more.* Received: 'keys,a' in .*, line 1"),
    "a name beyond all bounds": ("a" * 200_000 + ",key\n1,2\n", "Received: 'aaaaa.* in .*, line 1"),
    "one column": ("key\n1\n", "Received: 'key' in .*, line 1"),
    "bars": ("key|a\n", r"Received: 'key\|a' in .*, line 1"),
    "twice": ("key,a, a\n", "Received: 'a' twice in .*, line 1"),
    "nameless": ("key,,a\n1,x,2\n3,,4\n", "Received: a column without a name in .*, line 1"),
    "nameless numbers that count nothing": (",key\n0,1\n1,2\n0,3\n", "Received: a column without a name in .*, line 1"),
    "too many": ("key,a\n1,2\n1,2,3\n", "cells as the header, 2, .* Received: 3 in .*, line 3 .a text that holds"),
    "too few": ("key,a,b\n1,2\n", "cells as the header, 3, .* Received: 2 in .*, line 2$"),
    "Latin-1": ("key,a\n1,2\nMüller,3\n".encode("latin-1"), "'CSV UTF-8'.* Received: byte 0xfc in .*, line 3"),
    "half of UTF-16": ("key,a\n1,2\n".encode("utf-16")[:-1], "Received: byte 0x0a in .*, line 2"),
    "UTF-32": ("key,a\n1,2\n".encode("utf-32"), "Received: byte 0x00 in .*, line 1"),
    "UTF-16 without a mark": ("key,a\n".encode("utf-16-le"), "Received: byte 0x00 in .*, line 1"),
    "open quote": ('key,a\n1,2\n"3,4\n5,6\n', "in the row that begins at line 3"),
    "text after a quote": ('key,a\n"1"x,2\n', "in the row that begins at line 2"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_a_broken_table_is_one_line_with_file_and_line(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as caught:
        read_csv(write(tmp_path, content), key="key")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "table.csv") in str(caught.value)


def test_a_limit_that_another_library_has_lifted_holds_all_the_same(tmp_path):
    content, message = BAD["a name beyond all bounds"]
    (tmp_path / "table.csv").write_text(content)
    before = csv.field_size_limit(10**9)
    try:
        with pytest.raises(InputError, match=message):
            read_csv(tmp_path / "table.csv", key="key")
        assert csv.field_size_limit() == 10**9, "the other library's limit is left to it"
    finally:
        csv.field_size_limit(before)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent.csv \(No such file"):
        read_csv(tmp_path / "absent.csv", key="key")
