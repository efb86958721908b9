"""Your own photos: a folder of images and one table, `labels.csv`.

`--dataset=csv --data_dir=DIR`: `DIR/labels.csv` is UTF-8 text with one of two headers, columns in any order:

    file,labels[,split]                      labels of an image separated by `;`, none for an image without any
    file,<label>,<label>,...[,split]         one column a label: 1, true, yes or 0, false, no; empty, ? or -1: unknown

- `file` is relative to DIR; subfolders and backslashes are welcome, what leaves DIR is not.
- `split` is train, validation (or val) or test, in every row or in none. What is missing is drawn from train by a hash of
  `file`: about 25% of everything become test, 20% of what is left validation, and photos that are added move no other.
  Instead of it a column `is_valid` may say which rows are validation, as fastai has it.
- `file`, `labels`, `split` and `is_valid` may be written in any case.
- Columns may be separated by `;` instead, as spreadsheets do where the comma is the decimal sign, or by tabs. A list of
  several labels then stands in quotes, as they write it. Other ways to write such a list: see `label_lists`.
- Spaces around a name do not count. Names that differ only by case, inner spaces or what is not seen (a zero-width mark, the
  Unicode form of an accent) are taken for a slip: an error.
- A label that no row of train carries cannot be learnt: a warning, which asks where another name is nearly the same.
- An image without labels stays in as a negative, and is counted. A listed image must exist; images that the table does
  not list are ignored.
"""

import contextlib
import dataclasses
import difflib
import logging
import pathlib
import re
import unicodedata
from collections.abc import Collection, Mapping

import numpy as np

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import existing_folder, listed, missing_files, path_inside
from mulsupcon_tf.datasets.csv_table import CsvTable, read_csv
from mulsupcon_tf.datasets.label_lists import partial_labels, read_label_lists
from mulsupcon_tf.datasets.label_spelling import require_distinct
from mulsupcon_tf.datasets.splitting import finish_dataset
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import nearest

TABLE = "labels.csv"
_FILE, _LABELS, _SPLIT, _IS_VALID = _OWN = "file", "labels", "split", "is_valid"
_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_UNKNOWN = ("", "?", "-1", "-1.0")
_OTHER_SPLITS = re.compile("is_(train|training|test|testing|val|validation)")
_TRUTH = dict.fromkeys(("1", "true", "yes", "t", "y"), True) | dict.fromkeys(("0", "false", "no", "f", "n"), False)

_ALIKE = 0.75  # of two names, from 0 to 1: hardly more than one slip apart
_ASKED = 20

_logger = logging.getLogger("mulsupcon_tf")


def load_csv(
    name: str,
    data_dir: str | None,
    seed: int,
    *,
    label_separator: str | None = None,
    min_label_count: int | None = None,
) -> MultiLabelDataset:
    """Loads `--dataset=csv`; the images stay on disk.

    Args:
        name: "csv".
        data_dir: the folder of `labels.csv`.
        seed: of the samples that become test and validation where the table does not say.
        label_separator: what separates the labels in a cell, see `label_lists.read_label_lists`.
        min_label_count: labels that fewer rows of train carry (of the table, where it names no splits) are left out;
            the rows stay.

    Returns:
        The dataset, checked.

    Raises:
        InputError: there is no such folder or no table in it, a rule of this module is broken (file and line are
            named), or see `csv_table.read_csv`, `label_lists.read_label_lists` and `checking.check_dataset`.
    """
    folder = existing_folder(data_dir, name)
    if not (folder / TABLE).is_file():
        raise InputError(
            f"--data_dir must hold {TABLE}, with the header file,labels[,split] or file,<label>,<label>,...[,split]. "
            f"Received: no such file in {folder}"
        )
    table = _with_own_columns(read_csv(folder / TABLE, key=_FILE))
    if not table.rows:
        raise InputError(f"a table must list at least one image. Received: only a header in {table.path}")
    files = _image_files(table, folder)
    parts = np.array(_part_names(table))
    in_train = parts == "train"
    if _LABELS in table.columns:
        label_names, labels = _labels_from_lists(table, in_train, label_separator)
    else:
        label_names, labels = _labels_from_columns(table, label_separator)
    if min_label_count is not None:
        label_names, labels = _without_rare_labels(label_names, labels, in_train, min_label_count, table)
    if label_names and not (labels[in_train] > 0).any():
        raise InputError(f"an image of train must carry a label. Received: none that does in {table.path}")
    found = {part: Split(files[parts == part], labels[parts == part]) for part in dict.fromkeys(parts.tolist())}
    return finish_dataset(name, "image", label_names, found, seed)


def _with_own_columns(table: CsvTable) -> CsvTable:
    """The table with the columns of this module in lower case."""
    columns = tuple(name.lower() if name.lower() in _OWN else name for name in table.columns)
    twice = [name for name in columns if columns.count(name) > 1]
    if twice or {_SPLIT, _IS_VALID} <= set(columns):
        raise InputError(
            f"a table must say once what the file, its labels and its split are. "
            f"Received: {' and '.join(sorted(set(twice)) or (_SPLIT, _IS_VALID))} in {table.path}, line 1"
        )
    return dataclasses.replace(table, columns=columns)


def _cells(table: CsvTable, column: str) -> list[tuple[int, str]]:
    """Line and text of each row."""
    position = table.columns.index(column)
    return [(row.line, row.cells[position]) for row in table.rows]


def _image_files(table: CsvTable, folder: pathlib.Path) -> ImageFiles:
    lines: dict[str, int] = {}
    for line, cell in _cells(table, _FILE):
        where = f"{table.path}, line {line}"
        windows = pathlib.PureWindowsPath(cell)  # takes both kinds of slash, and knows drives
        if windows.drive:
            raise InputError(f"an image must be named by a path inside {folder}. Received: {cell!r} in {where}")
        file = windows.as_posix() if cell else cell
        path_inside(folder, file, where)
        if file in lines:
            raise InputError(
                f"every image must have one row. Received: {file!r} twice in {table.path}, lines {lines[file]} and {line}"
            )
        lines[file] = line
    files = ImageFiles.below(folder, lines)
    missing = missing_files(files)
    if missing:
        file = list(lines)[missing[0]]
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"every image that is listed must be an existing file. "
            f"Received: {file!r} missing in {folder}, listed in {table.path}, line {lines[file]}{more}"
            f"{_nearest_file(folder / file)}"
        )
    return files


def _nearest_file(path: pathlib.Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = [each.name for each in path.parent.iterdir() if each.is_file() and not each.name.startswith(".")]
    names = [name for name in names if name != TABLE]
    alike = next((name for name in names if _composed(name) == _composed(path.name)), None)
    if alike is not None:
        return f" (there is {alike!r}, which looks alike and has its accents in another Unicode form, NFC or NFD)"
    return f" (nearest: {nearest(path.name, names)!r})" if names else ""


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _part_names(table: CsvTable) -> list[str]:
    """The split of each row; "train" for all where the table does not say."""
    if _IS_VALID in table.columns:
        truths = _truths(table, _IS_VALID)
        return _require_train(table, ["validation" if truth else "train" for truth in truths])
    if _SPLIT not in table.columns:
        return ["train"] * len(table.rows)
    cells = _cells(table, _SPLIT)
    if not any(cell for _, cell in cells):
        return ["train"] * len(table.rows)
    for line, cell in cells:
        if not cell:
            raise InputError(f"every row must have a split where one has. Received: none in {table.path}, line {line}")
        if cell.lower() not in _SPLITS:
            raise InputError(
                f"a split must be one of {', '.join(_SPLITS)}. "
                f"Received: {cell!r} in {table.path}, line {line} (nearest: {nearest(cell.lower(), _SPLITS)!r})"
            )
    return _require_train(table, [_SPLITS[cell.lower()] for _, cell in cells])


def _require_train(table: CsvTable, parts: list[str]) -> list[str]:
    if "train" not in parts:
        raise InputError(
            f"at least one row must be of the split train. Received: only {', '.join(sorted(set(parts)))} in {table.path}"
        )
    return parts


def _labels_from_lists(
    table: CsvTable, in_train: np.ndarray, separator: str | None
) -> tuple[tuple[str, ...], np.ndarray]:
    extra = [column for column in table.columns if column not in _OWN]
    if extra:
        raise InputError(
            f"beside a column {_LABELS!r} a table must have {_FILE!r} and at most {_SPLIT!r}. "
            f"Received: {extra[0]!r} in {table.path}, line 1"
        )
    cells = _cells(table, _LABELS)
    samples = read_label_lists(
        [cell for _, cell in cells], [f"{table.path}, line {line}" for line, _ in cells], separator
    )
    first_lines: dict[str, int] = {}
    for (line, _), labels_of_row in zip(cells, samples, strict=True):
        for label in sorted(labels_of_row):
            first_lines.setdefault(label, line)
    require_distinct(first_lines, table.path)
    trained = {label for labels, chosen in zip(samples, in_train, strict=True) if chosen for label in labels}
    _ask_about_slips(table, first_lines, trained)
    label_names = tuple(sorted(first_lines))
    column_of = {label: column for column, label in enumerate(label_names)}
    labels = np.zeros((len(samples), len(label_names)), np.uint8)
    for row, labels_of_row in enumerate(samples):
        labels[row, [column_of[label] for label in labels_of_row]] = 1
    return label_names, labels


def _ask_about_slips(table: CsvTable, first_lines: Mapping[str, int], trained: set[str]) -> None:
    unknown = [label for label in first_lines if label not in trained]
    for label in unknown[:_ASKED]:  # each is held against all others
        alike = difflib.get_close_matches(label, sorted(trained), n=1, cutoff=_ALIKE)
        if alike:
            _logger.warning(
                "%s, line %d: no image of train carries %r; is %r meant?",
                table.path,
                first_lines[label],
                label,
                alike[0],
            )


def _labels_from_columns(table: CsvTable, separator: str | None) -> tuple[tuple[str, ...], np.ndarray]:
    if separator is not None:
        raise InputError(
            f"--label_separator belongs to a table with a column {_LABELS!r}. "
            f"Received: one with a column for each label in {table.path}"
        )
    label_names = tuple(column for column in table.columns if column not in _OWN)
    if not label_names:
        raise InputError(
            f"a table must have a column {_LABELS!r}, or one column a label. "
            f"Received: only {', '.join(table.columns)} in {table.path}, line 1"
        )
    for label in label_names:
        if _OTHER_SPLITS.fullmatch(label.lower()):
            raise InputError(
                f"the splits must stand in a column {_SPLIT!r} or {_IS_VALID!r}. "
                f"Received: {label!r}, which would be a label, in {table.path}, line 1"
            )
    require_distinct(dict.fromkeys(label_names, 1), table.path)
    labels = np.stack([_truths(table, label, unknown=_UNKNOWN) for label in label_names], axis=1)
    return label_names, partial_labels(labels, np.isnan(labels))


def _truths(table: CsvTable, column: str, *, unknown: Collection[str] = ()) -> np.ndarray:
    """`[N]` float64: what each row says to a yes-or-no question; NaN for the words that say that it is not known."""
    truths = []
    for line, cell in _cells(table, column):
        word = cell.lower()
        with contextlib.suppress(ValueError):  # 1.0, and 1,0 where the comma is the decimal sign
            word = {0.0: "0", 1.0: "1"}.get(float(word.replace(",", ".")), word)
        if word in unknown:
            truths.append(np.nan)
            continue
        if word not in _TRUTH:
            raise InputError(
                f"labels and {_IS_VALID!r} must be 0 or 1, true or false, yes or no{', or of a label empty, ? or -1' * bool(unknown)}. "
                f"Received: {cell!r} in {table.path}, line {line}, column {column!r}"
            )
        truths.append(_TRUTH[word])
    return np.array(truths)


def _without_rare_labels(
    label_names: tuple[str, ...], labels: np.ndarray, in_train: np.ndarray, least: int, table: CsvTable
) -> tuple[tuple[str, ...], np.ndarray]:
    counts = (labels[in_train] > 0).sum(axis=0, dtype=np.int64)
    if not (counts >= least).any():
        raise InputError(
            "--min_label_count must leave a label. "
            f"Received: {least}, while no label is carried by more than {counts.max(initial=0)} samples of {table.path}"
        )
    rare = np.flatnonzero(counts < least)
    if len(rare):
        _logger.info("%s: left out, with fewer than %d samples: %s", table.path, least, listed(label_names, rare))
    frequent = np.flatnonzero(counts >= least)
    return tuple(label_names[column] for column in frequent), labels[:, frequent]
