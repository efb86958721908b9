"""Reads one ARFF file, dense or sparse, by liac-arff, and says where it is broken.

liac-arff reads less than Weka, in which the format is at home. What Weka takes is brought into its form line by line:
comments at line ends, ranges such as `integer [0,9]`, values separated by spaces or tabs, weights of rows.
"""

import codecs
import csv
import dataclasses
import logging
import pathlib
import re
from collections.abc import Collection, Iterator, Sequence
from typing import TextIO

import arff
import numpy as np

from mulsupcon_tf.utils.atomic_file import regular_file
from mulsupcon_tf.utils.errors import InputError

_REASONS = {
    arff.BadAttributeFormat: "an ARFF attribute must be declared by name and type",
    arff.BadAttributeName: "ARFF attributes must have distinct names",
    arff.BadAttributeType: "ARFF attributes must be numeric or nominal",
    arff.BadDataFormat: "an ARFF row must hold one value for each attribute (is the file cut short?)",
    arff.BadLayout: "an ARFF file must be @relation, @attribute lines, @data and rows, of values divided by commas or "
    "`{index value, ...}` (is the file cut short?)",
    arff.BadNominalValue: "a nominal ARFF value must be one of the declared ones",
    arff.BadNumericalValue: "a numeric ARFF value must be a number",
}
_EXCERPT = 60  # characters of a broken line that a message shows
_QUOTED = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
_QUOTED_OR_COMMENT = re.compile(rf"(?<![^\s,{{]){_QUOTED}|(?<![^\s}}\]])%")  # what begins inside a word is part of it
_NUMERIC_TYPE = re.compile(r"\s(?:numeric|real|integer)\s*(?:[\[(][^\[\]()]*[\])])?\s*$", re.IGNORECASE)
_VALUE = re.compile(rf"{_QUOTED}|[^\s,]+")
_NO_VALUE = re.compile(r"^,|,\s*(?:,|$)")
_ROW_WEIGHT = re.compile(r"\s*,?\s*\{\s*([^\s,{}]+)\s*\}\s*$")
_SPARSE_INDEX = re.compile(r"[{,]\s*(\d+)\s")
_logger = logging.getLogger("mulsupcon_tf")


@dataclasses.dataclass(frozen=True)
class Attribute:
    """A declared column.

    Attributes:
        name: without quotes and escapes.
        values: of a nominal attribute, in declared order; None for another one.
        is_text: whether it is a string attribute; else it is numeric where it has no values.
    """

    name: str
    values: tuple[str, ...] | None
    is_text: bool = False


@dataclasses.dataclass(frozen=True)
class ArffTable:
    """The rows of a file.

    Attributes:
        path: the file.
        attributes: A declarations.
        codes: `[N, A]` float32, finite but for NaN where a value may be missing: numbers; for nominal attributes the index
            of the value in `values`; for string attributes a number for each text, in the order in which they first stand
            in the file.
        lines: N line numbers, counted from 1.
    """

    path: pathlib.Path
    attributes: tuple[Attribute, ...]
    codes: np.ndarray
    lines: Sequence[int]


def read_table(path: pathlib.Path, other_encoding: str = "latin-1", *, may_miss: Collection[str] = ()) -> ArffTable:
    """Reads a file.

    A value that a sparse row leaves out is 0, or the first declared one of a nominal attribute, as the format has it.
    Weights of rows are left out, with a warning where one is not 1.

    Args:
        path: the file; in UTF-8, or UTF-16 with a byte order mark.
        other_encoding: of a file that is neither.
        may_miss: names of attributes whose value may be missing, `?`: NaN then.

    Raises:
        InputError: the file cannot be read, has no rows, breaks the format (cut short, undeclared value, date
            attribute, an index twice in a row), or a value is missing or no finite float32. The message gives the line
            where one is known.
    """
    try:
        encoding = _encoding(path, other_encoding)
        sparse = _has_sparse_rows(path, encoding)
        with _opened(path, encoding) as stream:
            table, empty = _decode(path, stream, sparse)
    except OSError as error:
        raise InputError(f"an ARFF file must be readable. Received: {path} ({error.strerror})") from None
    _require_finite(table, may_miss, empty)
    return table


def plain_name(name: str) -> str:
    r"""Strips surrounding spaces and quotes and resolves escapes: `'Swainson\'s Thrush'` names Swainson's Thrush."""
    return re.sub(r"\\(.)", r"\1", name.strip().strip("\"'"))


def _encoding(path: pathlib.Path, otherwise: str) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with regular_file(path).open("rb") as stream:
        start = stream.read(1 << 20)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        try:
            while start:
                decoder.decode(start)
                start = stream.read(1 << 20)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return otherwise
    return "utf-8-sig"


def _opened(path: pathlib.Path, encoding: str) -> TextIO:
    # Undecodable bytes become U+FFFD: at worst a label name matches no attribute, and that is reported.
    return path.open(encoding=encoding, errors="replace")


def _has_sparse_rows(path: pathlib.Path, encoding: str) -> bool:
    """Whether rows are sparse, by the first one: liac-arff has to know, and is slow where it takes sparse rows for dense."""
    with _opened(path, encoding) as stream:
        for line in stream:
            if line.lstrip().lower().startswith("@data"):
                break
        for line in stream:
            if line.strip() and not line.lstrip().startswith("%"):
                return line.lstrip().startswith("{")
    raise InputError(
        f"an ARFF file must hold attributes, a line `@data` and at least one row. "
        f"Received: {path} ({path.stat().st_size} bytes, no row)"
    )


class _Lines:
    """Hands on the lines of a file in liac-arff's form, and remembers the last: its lazy reader does not report it.

    Attributes:
        number: of the last line, from 1.
        text: that line as it stands in the file, without surrounding spaces.
        handed: that line as it was handed on.
        weighted: how many rows had another weight than 1.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.number = 0
        self.text = self.handed = ""
        self.weighted = 0

    def __iter__(self) -> Iterator[str]:
        num_attributes = 0
        in_header = True
        for line in self._stream:
            self.number += 1
            self.text = line.strip()
            self.handed = _without_comment(self.text) if "%" in self.text else self.text
            if in_header:
                is_attribute = self.handed.lower().startswith("@attribute")
                num_attributes += is_attribute
                # liac-arff splits declarations at spaces only, and cuts fractions off where a type is `integer`.
                self.handed = self.handed.replace("\t", " ")
                self.handed = _NUMERIC_TYPE.sub(" real", self.handed) if is_attribute else self.handed
                in_header = not self.text.lower().startswith("@data")
            else:
                self._hand_row(num_attributes)
            yield self.handed

    def _hand_row(self, num_attributes: int) -> None:
        row = self.handed
        if row.endswith("}") and (match := _ROW_WEIGHT.search(row)) and match.start():
            row = row[: match.start()]
            self.weighted += float(match[1]) != 1
        if not row.startswith("{") and row.count(",") + 1 != num_attributes and not _NO_VALUE.search(row):
            values = _VALUE.findall(row)
            if len(values) == num_attributes:
                row = ",".join(values)
        self.handed = row


def _without_comment(line: str) -> str:
    for match in _QUOTED_OR_COMMENT.finditer(line):
        if match.group() == "%":
            return line[: match.start()].rstrip()
    return line


def _decode(path: pathlib.Path, stream: TextIO, sparse: bool) -> tuple[ArffTable, list[tuple[int, int]]]:
    """The table, and row and column of each value that is empty, which liac-arff takes for `?`."""
    handed = _Lines(stream)
    numbers: list[int] = []
    empty: list[tuple[int, int]] = []
    try:
        content = arff.load(handed, return_type=arff.LOD_GEN if sparse else arff.DENSE_GEN, encode_nominal=True)
        attributes = tuple(_attribute(name, declared) for name, declared in content["attributes"])
        texts: dict[int, dict[str | None, int]] = {
            column: {} for column, attribute in enumerate(attributes) if attribute.is_text
        }

        def rows() -> Iterator:
            for row in content["data"]:
                if not sparse and None in row:
                    written = re.sub(_QUOTED, "''", handed.handed).split(",")
                    empty.extend((len(numbers), column) for column, text in enumerate(written) if not text.strip())
                numbers.append(handed.number)
                if sparse:
                    _require_distinct_indices(row, handed, path)
                for column, known in texts.items():
                    text = row.get(column, "") if sparse else row[column]
                    row[column] = known.setdefault(text, len(known))
                if sparse:
                    values = np.zeros(len(attributes), np.float32)
                    values[list(row)] = list(row.values())
                    yield values
                else:
                    yield row

        # `fromiter` needs no second copy of the rows. A missing value, None, becomes NaN, one beyond float32 infinity.
        with np.errstate(over="ignore"):
            codes = np.fromiter(rows(), np.dtype((np.float32, len(attributes))))
    except InputError:
        raise
    except (arff.ArffException, ValueError, TypeError, OverflowError, csv.Error) as error:
        reason = _REASONS.get(type(error), "an ARFF file must keep to the format")
        raise InputError(f"{reason}. Received: {path}, line {handed.number}: {handed.text[:_EXCERPT]!r}") from None
    if handed.weighted:
        _logger.warning("%s: weights of rows are not used, of which not 1: %d", path, handed.weighted)
    return ArffTable(path, attributes, codes, numbers), empty


def _attribute(name: str, declared: str | list) -> Attribute:
    values = None if isinstance(declared, str) else tuple(map(str, declared))
    return Attribute(plain_name(name), values, is_text=declared == "STRING")


def _require_distinct_indices(row: dict[int, object], handed: _Lines, path: pathlib.Path) -> None:
    """liac-arff keeps the last of two values for one attribute."""
    if handed.handed.count(",") + 1 == len(row):
        return
    indices = list(map(int, _SPARSE_INDEX.findall(re.sub(_QUOTED, "''", handed.handed))))
    twice = next((index for index in indices if indices.count(index) > 1), None)
    if twice is not None:
        raise InputError(
            f"a sparse ARFF row must give each attribute once. "
            f"Received: index {twice} twice in {path}, line {handed.number}: {handed.text[:_EXCERPT]!r}"
        )


def _require_finite(table: ArffTable, may_miss: Collection[str], empty: Sequence[tuple[int, int]]) -> None:
    finite = np.isfinite(table.codes)
    missing = [column for column, attribute in enumerate(table.attributes) if attribute.name in may_miss]
    finite[:, missing] |= np.isnan(table.codes[:, missing])
    for row, column in empty:  # a line that is cut off behind a comma does not say that a label is unknown
        finite[row, column] &= column not in missing
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        value = table.codes[row, column]
        raise InputError(
            f"ARFF values must be present and finite. Received: {'missing or NaN' if np.isnan(value) else value} in "
            f"{table.path}, line {table.lines[row]} (row {row + 1}), attribute {table.attributes[column].name!r}"
        )
