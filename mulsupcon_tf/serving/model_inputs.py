"""What a user names to have it answered by a model: files, folders, patterns and tables, and the samples in them."""

import glob
import itertools
import logging
import pathlib
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

import numpy as np

from mulsupcon_tf.config.paths import expanded
from mulsupcon_tf.datasets.base import IMAGE_SUFFIXES
from mulsupcon_tf.datasets.csv_table import read_csv
from mulsupcon_tf.datasets.folders import visible_files
from mulsupcon_tf.utils.atomic_file import regular_file
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import counted

TABLE_SUFFIXES = (".csv", ".tsv")
_OTHER_PHOTOS = (".heic", ".heif", ".avif", ".tif", ".tiff", ".jfif", ".jxl")
VECTOR_SUFFIXES = (".npy", ".csv")
_FILE = "file"
_NO_NAMES = ("", "?", "-", "na", "n/a", "none", "null")  # of columns: cells of the first line that stand for no value
_FEWEST_FROM_1 = 3  # columns: a vector 1 or 1, 2 is nothing out of the common
_FRACTION = re.compile("[.eE]")
_logger = logging.getLogger("mulsupcon_tf")

Sample = tuple[dict[str, Any], Any]  # {"file", "row" (vectors only, from 0)}, and encoded bytes or a vector


class Refused:
    """Files that have no answer, with the reason for each; each is reported as it is found."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def add(self, file: str, reason: str) -> None:
        """Notes and reports a file."""
        self.reasons[file] = reason
        _logger.warning("no answer: %s", reason)

    def add_image(self, file: str, fault: str) -> None:
        """Notes and reports an image file that cannot be decoded."""
        self.add(file, f"Each file must be a whole JPEG, PNG, GIF, BMP or WebP. Received: {file} ({fault})")

    def raise_if_any(self) -> None:
        """Raises `InputError` with the first reason and the names of the others, where there are some."""
        if self.reasons:
            first, *others = self.reasons
            also = f"; also no answer for {', '.join(others)}" if others else ""
            raise InputError(f"{self.reasons[first]}{also}")


def named_files(names: Sequence[str]) -> list[str]:
    """What the user names, with `~` replaced and patterns by the files and folders that they match, in order.

    Args:
        names: of files and folders; one with `*`, `?` or `[` that is not there itself is a pattern, in which `**` stands for
            any folders. A match that lies in a folder which matches too is left to that folder.

    Raises:
        InputError: one is not there, or no file matches a pattern.
    """
    found: list[str] = []
    for name in names:
        path = expanded(name, "Each file")
        if pathlib.Path(path).exists():
            found.append(path)
        elif glob.has_magic(path):
            matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 (pathlib's takes no absolute pattern)
            if not matches:
                raise InputError(f"Each pattern must match a file. Received: {name}")
            folders = {pathlib.Path(match) for match in matches if pathlib.Path(match).is_dir()}
            # What lies in a folder that matches comes with it, once: `**` matches both.
            found += [match for match in matches if folders.isdisjoint(pathlib.Path(match).parents)]
        else:
            raise InputError(f"Each file must exist. Received: {path}")
    return found


def files_below(names: Sequence[str], num_features: int | None) -> list[str]:
    """The files that a model can take, of files, folders and tables.

    Args:
        names: as `named_files` gives them. Of a folder all files below it that look right, hidden ones left out; of a table,
            for a model on images, the files in its column `file`, below the table's own folder.
        num_features: F of a model on vectors; None of one on images.

    Raises:
        InputError: a folder holds no such file, or a table cannot be read.
    """
    suffixes = IMAGE_SUFFIXES if num_features is None else VECTOR_SUFFIXES
    found: list[str] = []
    for name in names:
        path = pathlib.Path(name)
        if path.is_dir():
            seen = visible_files(path, (*suffixes, *_OTHER_PHOTOS) if num_features is None else suffixes)
            inside = [str(file) for file in seen if file.suffix.lower() in suffixes]
            if len(inside) < len(seen):
                others = [str(file) for file in seen if file.suffix.lower() not in suffixes]
                _logger.warning(
                    "%s: passed over are %s that end otherwise than in %s, such as %s",
                    name,
                    counted(len(others), "photo"),
                    ", ".join(suffixes),
                    others[0],
                )
            if not inside:
                raise InputError(f"A folder must hold a file that ends in {', '.join(suffixes)}. Received: {name}")
            found += inside
        elif num_features is None and path.suffix.lower() in TABLE_SUFFIXES:
            found += _files_of_table(path)
        else:
            found.append(name)
    return found


def _files_of_table(path: pathlib.Path) -> list[str]:
    table = read_csv(path, key=_FILE, alone=True)
    column = [name.lower() for name in table.columns].index(_FILE)
    return [str(path.parent / row.cells[column].replace("\\", "/")) for row in table.rows]


def samples_of(files: Sequence[str], num_features: int | None, refused: Refused) -> Iterator[Sample]:
    """Yields the samples of the files: images as they are stored, or the rows of files of vectors."""
    return _images(files, refused) if num_features is None else _vectors(files, num_features, refused)


def _images(files: Sequence[str], refused: Refused) -> Iterator[Sample]:
    for file in files:
        try:
            yield {"file": file}, pathlib.Path(file).read_bytes()
        except OSError as error:
            refused.add(file, f"Each file must be readable. Received: {file} ({error.strerror})")


def _vectors(files: Sequence[str], num_features: int, refused: Refused) -> Iterator[Sample]:
    for file in files:
        try:
            rows = _finite_rows(file, num_features)
        except InputError as error:
            refused.add(file, str(error))
            continue
        for number, row in enumerate(rows):
            yield {"file": file, "row": number}, row


def _finite_rows(file: str, num_features: int) -> np.ndarray:
    rows = np.atleast_2d(_numbers(file))
    if rows.ndim != 2 or rows.shape[1] != num_features:
        raise InputError(
            f"Each vector must have the model's {num_features} features. Received: {file} of shape {rows.shape}"
        )
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise InputError(
            f"Features must be finite float32 numbers. Received: {file} with NaN or infinity in row {int(np.argmin(finite))}"
        )
    return rows


def _numbers(file: str) -> np.ndarray:
    """What a `.npy` or `.csv` file holds, as float32; what is too large for that becomes infinity."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of an empty file; its shape says so too
            is_npy = file.lower().endswith(".npy")
            rows = np.load(regular_file(pathlib.Path(file)), allow_pickle=False) if is_npy else _csv_numbers(file)
        if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "buif":
            raise ValueError(f"it holds {getattr(rows, 'dtype', 'an archive')}")
    except InputError:
        raise
    except (OSError, EOFError, ValueError) as error:
        raise InputError(
            f"A file of vectors must be .npy or .csv with numbers only. Received: {file} ({error})"
        ) from error
    with np.errstate(over="ignore"):
        return rows.astype(np.float32)


def _csv_numbers(file: str) -> np.ndarray:
    with open(file, encoding="utf-8-sig") as stream:  # noqa: PTH123 paths are text here
        # Without comments: a line that begins with # is no less a mistake than any other that is not numbers.
        return np.loadtxt(_lines_of_vectors(stream, file), delimiter=",", comments=None, ndmin=2)


def _lines_of_vectors(stream: TextIO, file: str) -> Iterable[str]:
    """All lines but a header: names in the first, or numbers that count the columns, as pandas writes those without names.

    Numbers in the first line are a header where another line shows it, by a column that is written with a decimal sign or an
    exponent below its whole number; that is said. From 0 on they are else refused, since nobody could tell.
    """
    first = stream.readline()
    if _is_header(first):
        return stream
    cells = [cell.strip() for cell in first.split(",")]
    start = next((start for start in (0, 1) if cells == [str(start + column) for column in range(len(cells))]), None)
    if start is None or (start == 1 and len(cells) < _FEWEST_FROM_1):
        return itertools.chain([first], stream)
    rest = [line for line in stream if line.strip()]
    counted = f"its first line, which counts from {cells[0]} to {cells[-1]},"
    if rest and any(
        all(map(_FRACTION.search, column)) for column in zip(*(line.split(",") for line in rest), strict=False)
    ):
        _logger.warning("%s: %s numbers the columns and is no vector", file, counted)
        return rest
    if start == 0:
        raise InputError(
            "A .csv of vectors must show whether its first line numbers the columns: leave it out, give names, "
            f"or write 0.0 for the 0 of a vector. Received: {file} with {counted} and no fraction to tell it from a vector"
        )
    _logger.warning("%s: %s is read as a vector; names of columns are no numbers", file, counted)
    return [first, *rest]


def _is_header(line: str) -> bool:
    """Whether every cell of a line is a name, and none a number or the mark of a missing one."""
    cells = [cell.strip().strip('"') for cell in line.split(",")]
    return not any(cell.lower() in _NO_NAMES or _is_number(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
