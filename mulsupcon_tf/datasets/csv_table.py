"""Reads a CSV file as text, with the line of each row, and without guessing what it means."""

import codecs
import contextlib
import csv
import dataclasses
import io
import logging
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mulsupcon_tf.utils.atomic_file import regular_file
from mulsupcon_tf.utils.errors import InputError

_DELIMITERS = (",", ";", "\t")
_MARKS_OF_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NAMED_BY_PANDAS = re.compile(r"Unnamed: \d+")  # a column without a name, read and written again
_SHOWN = 80  # characters of a wrong line
_LONGEST_CELL = 131_072  # characters; the limit that `csv` begins with

_logger = logging.getLogger("mulsupcon_tf")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        line: of the file, from 1, where the row begins.
        cells: one text a column, without surrounding spaces.
    """

    line: int
    cells: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class CsvTable:
    """A table with a header.

    Attributes:
        path: of the file.
        columns: their names, without surrounding spaces.
        rows: in the order of the file; rows and columns without any content are left out.
    """

    path: pathlib.Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_csv(path: pathlib.Path, key: str, *, alone: bool = False) -> CsvTable:
    """Reads a table whose columns are separated by commas, semicolons or tabs: by whichever the header shows `key`.

    Columns without a name are left out where they are empty or number the rows, as spreadsheets and pandas add them.

    Args:
        path: a file in UTF-8, with or without byte order mark, or in UTF-16 with one.
        key: the name, in any case, of a column that the table must have.
        alone: whether that may be its only column.

    Raises:
        InputError: the file cannot be read, is empty, is of another encoding, has no column `key` or nothing beside
            it where that may not be `alone`, names a column twice or one with content not at all, has a row of another
            width or a quote that does not end.
    """
    text = _decoded(path)
    with _cells_limited():
        delimiter = _delimiter(path, text, key, alone)
        header, *rows = _rows(path, text, delimiter)
    width = len(header.cells)
    rows = [row if any(row.cells[width:]) else Row(row.line, row.cells[:width]) for row in rows]
    for row in rows:
        if len(row.cells) != width:
            hint = " (a text that holds the separator must stand in quotes)" * (len(row.cells) > width)
            raise InputError(
                f"every row must have as many cells as the header, {width}, separated by {delimiter!r}. "
                f"Received: {len(row.cells)} in {path}, line {row.line}{hint}"
            )
    kept = [column for column in range(width) if not _is_added(header.cells[column], column, rows, path)]
    columns = tuple(header.cells[column] for column in kept)
    if not all(columns) or len(set(columns)) < len(columns):
        wrong = next(name for name in columns if not name or columns.count(name) > 1)
        raise InputError(
            f"the columns of a table must have distinct names. "
            f"Received: {f'{wrong!r} twice' if wrong else 'a column without a name'} in {path}, line 1"
        )
    return CsvTable(path, columns, tuple(Row(row.line, tuple(row.cells[column] for column in kept)) for row in rows))


def _is_added(name: str, column: int, rows: Sequence[Row], path: pathlib.Path) -> bool:
    """Whether a program added the column: without a name, and empty or with a number of its own for each row."""
    named_by_pandas = _NAMED_BY_PANDAS.fullmatch(name) is not None
    if name and not named_by_pandas:
        return False
    cells = [row.cells[column] for row in rows]
    if not any(cells):
        return True
    if named_by_pandas or (len(set(cells)) == len(cells) > 1 and all(re.fullmatch(r"\d+", cell) for cell in cells)):
        _logger.warning("%s: column %d, %r, has no name of its own and is left out", path, column + 1, name)
        return True
    return False


def _decoded(path: pathlib.Path) -> str:
    try:
        content = regular_file(path).read_bytes()
    except OSError as error:
        raise InputError(f"a table must be a readable file. Received: {path} ({error.strerror})") from None
    encoding = "utf-16" if content.startswith(_MARKS_OF_UTF16) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        wrong, before = error.object[error.start], error.object[: error.start].decode(encoding, "replace")
    else:
        before, null, _ = text.partition("\0")  # no text has it, but UTF-16 without a byte order mark is full of it
        if not null:
            return text
        wrong = 0
    raise InputError(
        f"a table must be UTF-8 text (a spreadsheet offers it as 'CSV UTF-8'). "
        f"Received: byte 0x{wrong:02x} in {path}, line {before.count(chr(10)) + 1}"
    )


def _delimiter(path: pathlib.Path, text: str, key: str, alone: bool) -> str:
    first = re.split("[\r\n]", text, maxsplit=1)[0]
    if not first.strip():
        raise InputError(f"a table must begin with a header that names its columns. Received: no header in {path}")
    with contextlib.suppress(csv.Error):  # a name of more than 100,000 characters
        for delimiter in _DELIMITERS:
            names = [name.strip().lower() for name in next(_reader([first], delimiter))]
            if key in names and (alone or len(names) > 1):
                return delimiter
    raise InputError(
        f"a table must have a column {key!r}{'' if alone else ' and at least one more'}, separated by ',', ';' or tabs. "
        f"Received: {first[:_SHOWN]!r} in {path}, line 1"
    )


@contextlib.contextmanager
def _cells_limited() -> Iterator[None]:
    """Within, `csv` refuses a cell of more than `_LONGEST_CELL` characters, whatever limit others have set in this process."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _reader(lines: Iterable[str], delimiter: str, *, strict: bool = False) -> Any:
    """A `csv` reader for which a quote behind spaces begins a quoted text, as people write it: `1.jpg, "sea;beach"`."""
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=strict)


def _rows(path: pathlib.Path, text: str, delimiter: str) -> Iterator[Row]:
    reader = _reader(io.StringIO(text, newline=""), delimiter, strict=True)
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
