"""Reads one ARFF file, dense or sparse, by liac-arff, and says where it is broken."""

import csv
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import TextIO

import arff
import numpy as np

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


@dataclasses.dataclass(frozen=True)
class Attribute:
    """A declared column.

    Attributes:
        name: without quotes and escapes.
        values: of a nominal attribute, in declared order; None for a numeric one.
    """

    name: str
    values: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class ArffTable:
    """The rows of a file.

    Attributes:
        path: the file.
        attributes: A declarations.
        codes: `[N, A]` finite float32: numbers, and for nominal attributes the index of the value in `values`.
        lines: N line numbers, counted from 1.
    """

    path: pathlib.Path
    attributes: tuple[Attribute, ...]
    codes: np.ndarray
    lines: Sequence[int]


def read_table(path: pathlib.Path) -> ArffTable:
    """Reads a file.

    A value that a sparse row leaves out is 0, or the first declared one of a nominal attribute, as the format has it.

    Raises:
        InputError: the file cannot be read, has no rows, breaks the format (cut short, undeclared value, string or
            date attribute), or a value is missing or no finite float32. The message gives the line where one is known.
    """
    try:
        sparse = _has_sparse_rows(path)
        with _opened(path) as stream:
            table = _decode(path, stream, sparse)
    except OSError as error:
        raise InputError(f"an ARFF file must be readable. Received: {path} ({error.strerror})") from None
    _require_finite(table)
    return table


def plain_name(name: str) -> str:
    r"""Strips surrounding blanks and quotes and resolves escapes: `'Swainson\'s Thrush'` names Swainson's Thrush."""
    return re.sub(r"\\(.)", r"\1", name.strip().strip("\"'"))


def _opened(path: pathlib.Path) -> TextIO:
    # Undecodable bytes become U+FFFD: at worst a label name matches no attribute, and that is reported.
    return path.open(encoding="utf-8-sig", errors="replace")


def _has_sparse_rows(path: pathlib.Path) -> bool:
    """Looks at the first row: liac-arff must be told, and is slow on sparse rows that it reads as dense ones."""
    with _opened(path) as stream:
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


class _LineCounter:
    """Hands on the lines of a file and remembers the last one: liac-arff's lazy reader does not report it."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.number = 0
        self.text = ""

    def __iter__(self) -> Iterator[str]:
        in_header = True
        for line in self._stream:
            self.number += 1
            self.text = line.strip()
            # liac-arff splits declarations at blanks only; the format allows tabs.
            yield line.replace("\t", " ") if in_header else line
            in_header = in_header and not self.text.lower().startswith("@data")


def _decode(path: pathlib.Path, stream: TextIO, sparse: bool) -> ArffTable:
    counter = _LineCounter(stream)
    lines: list[int] = []
    try:
        content = arff.load(counter, return_type=arff.LOD_GEN if sparse else arff.DENSE_GEN, encode_nominal=True)
        attributes = tuple(_attribute(path, name, declared) for name, declared in content["attributes"])

        def rows() -> Iterator:
            for row in content["data"]:
                lines.append(counter.number)
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
        raise InputError(f"{reason}. Received: {path}, line {counter.number}: {counter.text[:_EXCERPT]!r}") from None
    return ArffTable(path, attributes, codes, lines)


def _attribute(path: pathlib.Path, name: str, declared: str | list) -> Attribute:
    if declared == "STRING":
        raise InputError(f"ARFF attributes must be numeric or nominal. Received: {path}, string attribute {name!r}")
    return Attribute(plain_name(name), None if isinstance(declared, str) else tuple(map(str, declared)))


def _require_finite(table: ArffTable) -> None:
    finite = np.isfinite(table.codes)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        value = table.codes[row, column]
        raise InputError(
            f"ARFF values must be present and finite. Received: {'missing or NaN' if np.isnan(value) else value} in "
            f"{table.path}, line {table.lines[row]} (row {row + 1}), attribute {table.attributes[column].name!r}"
        )
