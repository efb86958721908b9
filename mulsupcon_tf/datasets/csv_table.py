"""Reads a CSV file as text, with the line of each row, and without guessing what it means."""

import csv
import dataclasses
import io
import pathlib
import re
from collections.abc import Iterator

from mulsupcon_tf.utils.errors import InputError

_DELIMITERS = (",", ";")
_SHOWN = 80  # characters of a wrong line


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        line: of the file, from 1, where the row begins.
        cells: one text a column, without surrounding blanks.
    """

    line: int
    cells: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class CsvTable:
    """A table with a header.

    Attributes:
        path: of the file.
        columns: their names, without surrounding blanks.
        rows: in the order of the file; rows without any content are left out.
    """

    path: pathlib.Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_csv(path: pathlib.Path, key: str) -> CsvTable:
    """Reads a table whose columns are separated by commas or by semicolons: by whichever the header shows `key`.

    Args:
        path: a file in UTF-8, with or without byte order mark.
        key: the name of a column that the table must have.

    Raises:
        InputError: the file cannot be read, is empty, is not UTF-8, has no column `key` or nothing beside it, names a
            column twice or not at all, has a row of another width or a quote that does not end.
    """
    text = _decoded(path)
    delimiter = _delimiter(path, text, key)
    header, *rows = _rows(path, text, delimiter)
    if not all(header.cells) or len(set(header.cells)) < len(header.cells):
        wrong = next(name for name in header.cells if not name or header.cells.count(name) > 1)
        raise InputError(
            f"the columns of a table must have distinct names. "
            f"Received: {f'{wrong!r} twice' if wrong else 'a column without a name'} in {path}, line 1"
        )
    for row in rows:
        if len(row.cells) != len(header.cells):
            hint = " (a text that holds the separator must stand in quotes)" * (len(row.cells) > len(header.cells))
            raise InputError(
                f"every row must have as many cells as the header, {len(header.cells)}, separated by {delimiter!r}. "
                f"Received: {len(row.cells)} in {path}, line {row.line}{hint}"
            )
    return CsvTable(path, header.cells, tuple(rows))


def _decoded(path: pathlib.Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"a table must be a readable file. Received: {path} ({error.strerror})") from None
    try:
        text = content.decode("utf-8-sig")
        wrong = content.find(b"\0")  # no text has it, but UTF-16 without a byte order mark is full of it
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        line = content.count(b"\n", 0, wrong) + 1
        raise InputError(
            f"a table must be UTF-8 text (a spreadsheet offers it as 'CSV UTF-8'). "
            f"Received: byte 0x{content[wrong]:02x} in {path}, line {line}"
        )
    return text


def _delimiter(path: pathlib.Path, text: str, key: str) -> str:
    first = re.split("[\r\n]", text, maxsplit=1)[0]
    if not first.strip():
        raise InputError(f"a table must begin with a header that names its columns. Received: no header in {path}")
    for delimiter in _DELIMITERS:
        names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter))]
        if key in names and len(names) > 1:
            return delimiter
    raise InputError(
        f"a table must have a column {key!r} and at least one more, separated by ',' or ';'. "
        f"Received: {first[:_SHOWN]!r} in {path}, line 1"
    )


def _rows(path: pathlib.Path, text: str, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = tuple(cell.strip() for cell in next(reader))
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"a table must be CSV, with a quote inside a quoted text doubled. "
                f"Received: {error} in {path}, in the row that begins at line {line}"
            ) from None
        if any(cells):
            yield Row(line, cells)
