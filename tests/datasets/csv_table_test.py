import pytest

from mulsupcon_tf.datasets.csv_table import read_csv
from mulsupcon_tf.utils.errors import InputError


def write(folder, content):
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_encodings_line_ends_and_separators_give_the_same_table(tmp_path, encoding, end, delimiter):
    lines = [" key ,a b", 'Müller,"x,y;z"', "", ",", 'two,"1', '2"', "last,"]
    text = end.join(line if line.startswith(("Mü", "tw")) else line.replace(",", delimiter) for line in lines)
    text = text.replace("Müller,", f"Müller{delimiter}").replace("two,", f"two{delimiter}")
    table = read_csv(write(tmp_path, text.encode(encoding)), key="key")
    assert table.columns == ("key", "a b")
    assert [(row.line, *row.cells) for row in table.rows] == [
        (2, "Müller", "x,y;z"),
        (5, "two", f"1{end}2"),
        (7, "last", ""),
    ]


def test_a_column_name_may_hold_the_other_separator(tmp_path):
    assert read_csv(write(tmp_path, "a;b,key\n1,2\n"), key="key").columns == ("a;b", "key")
    assert read_csv(write(tmp_path, 'key;"a,b"\n1;2\n'), key="key").columns == ("key", "a,b")


BAD = {
    "empty": (b"", "no header in"),
    "only a BOM": (b"\xef\xbb\xbf", "no header in"),
    "blank first line": (b"\nkey,a\n", "no header in"),
    "no key": ("Key,a\n1,2\n", "must have a column 'key' and at least one more.* Received: 'Key,a' in .*, line 1"),
    "one column": ("key\n1\n", "Received: 'key' in .*, line 1"),
    "tabs": ("key\ta\n", r"Received: 'key\\ta' in .*, line 1"),
    "twice": ("key,a, a\n", "Received: 'a' twice in .*, line 1"),
    "nameless": ("key,,a\n", "Received: a column without a name in .*, line 1"),
    "too many": ("key,a\n1,2\n1,2,3\n", "cells as the header, 2, .* Received: 3 in .*, line 3 .a text that holds"),
    "too few": ("key,a,b\n1,2\n", "cells as the header, 3, .* Received: 2 in .*, line 2$"),
    "Latin-1": ("key,a\n1,2\nMüller,3\n".encode("latin-1"), "'CSV UTF-8'.* Received: byte 0xfc in .*, line 3"),
    "UTF-16": ("key,a\n".encode("utf-16"), "Received: byte 0xff in .*, line 1"),
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


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent.csv \(No such file"):
        read_csv(tmp_path / "absent.csv", key="key")
