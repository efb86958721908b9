"""Your own photos: a folder of images and one table, `labels.csv`.

`--dataset=csv --data_dir=DIR`: `DIR/labels.csv` is UTF-8 text with one of two headers, columns in any order:

    file,labels[,split]                      labels of an image separated by `;`, none for an image without any
    file,<label>,<label>,...[,split]         one column a label, 0 or 1

- `file` is relative to DIR; subfolders and backslashes are welcome, what leaves DIR is not.
- `split` is train, validation (or val) or test, in every row or in none. What is missing is drawn from train by a hash of
  `file`: about 25% of everything become test, 20% of what is left validation, and photos that are added move no other.
- Columns may be separated by `;` instead, as spreadsheets do where the comma is the decimal sign. A list of several
  labels then stands in quotes, as they write it.
- Blanks around a name do not count. Names that differ by case or inner blanks only are taken for a slip: an error.
- In the first layout a label that no row of train carries, while the table sets train, is an error that names the
  nearest one: it cannot be learnt, and most often it is misspelt. Whoever means it gives it a column (second layout),
  where it is a warning.
- An image without labels stays in as a negative, and is counted. A listed image must exist; images that the table does
  not list are ignored.
"""

import pathlib
from collections.abc import Mapping

import numpy as np

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import existing_folder, missing_files, nearest, path_inside
from mulsupcon_tf.datasets.csv_table import CsvTable, read_csv
from mulsupcon_tf.datasets.splitting import finish_dataset
from mulsupcon_tf.utils.errors import InputError

TABLE = "labels.csv"
_FILE, _LABELS, _SPLIT = "file", "labels", "split"
_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


def load_csv(name: str, data_dir: str | None, seed: int) -> MultiLabelDataset:
    """Loads `--dataset=csv`; the images stay on disk.

    Args:
        name: "csv".
        data_dir: the folder of `labels.csv`.
        seed: of the samples that become test and validation where the table does not say.

    Raises:
        InputError: there is no such folder or no table in it, a rule of this module is broken (file and line are
            named), or see `csv_table.read_csv` and `checking.check_dataset`.
    """
    folder = existing_folder(data_dir, name)
    if not (folder / TABLE).is_file():
        raise InputError(
            f"--data_dir must hold {TABLE}, with the header file,labels[,split] or file,<label>,<label>,...[,split]. "
            f"Received: no such file in {folder}"
        )
    table = read_csv(folder / TABLE, key=_FILE)
    if not table.rows:
        raise InputError(f"a table must list at least one image. Received: only a header in {table.path}")
    files = _image_files(table, folder)
    parts = _part_names(table)
    if _LABELS in table.columns:
        label_names, labels = _labels_from_lists(table, parts)
    else:
        label_names, labels = _labels_from_columns(table)
    found = {}
    for part in dict.fromkeys(parts):
        chosen = np.array([each == part for each in parts])
        found[part] = Split(files[chosen], labels[chosen])
    return finish_dataset(name, "image", label_names, found, seed)


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
            f"every image that is listed must exist. "
            f"Received: {file!r} missing in {folder}, listed in {table.path}, line {lines[file]}{more}"
            f"{_nearest_file(folder / file)}"
        )
    return files


def _nearest_file(path: pathlib.Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = [each.name for each in path.parent.iterdir() if each.is_file() and each.name != TABLE]
    return f" (nearest: {nearest(path.name, names)!r})" if names else ""


def _part_names(table: CsvTable) -> list[str]:
    """The split of each row; "train" for all where the table does not say."""
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
    parts = [_SPLITS[cell.lower()] for _, cell in cells]
    if "train" not in parts:
        raise InputError(
            f"at least one row must be of the split train. Received: only {', '.join(sorted(set(parts)))} in {table.path}"
        )
    return parts


def _labels_from_lists(table: CsvTable, parts: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    extra = [column for column in table.columns if column not in (_FILE, _LABELS, _SPLIT)]
    if extra:
        raise InputError(
            f"beside a column {_LABELS!r} a table must have {_FILE!r} and at most {_SPLIT!r}. "
            f"Received: {extra[0]!r} in {table.path}, line 1"
        )
    samples = []
    first_lines: dict[str, int] = {}
    for line, cell in _cells(table, _LABELS):
        samples.append({label.strip() for label in cell.split(";")} - {""})
        for label in samples[-1]:
            first_lines.setdefault(label, line)
    _require_distinct(table, first_lines)
    trained = {label for labels, part in zip(samples, parts, strict=True) if part == "train" for label in labels}
    for label, line in first_lines.items():
        if label not in trained:
            hint = f" (nearest: {nearest(label, sorted(trained))!r})" if trained else ""
            raise InputError(
                f"every label must be carried by an image of train (or have a column of its own). "
                f"Received: {label!r} in {table.path}, line {line}{hint}"
            )
    label_names = tuple(sorted(first_lines))
    labels = np.array([[label in each for label in label_names] for each in samples], np.uint8)
    return label_names, labels.reshape(len(samples), len(label_names))


def _labels_from_columns(table: CsvTable) -> tuple[tuple[str, ...], np.ndarray]:
    label_names = tuple(column for column in table.columns if column not in (_FILE, _SPLIT))
    if not label_names:
        raise InputError(
            f"a table must have a column {_LABELS!r}, or one column a label. "
            f"Received: only {', '.join(table.columns)} in {table.path}, line 1"
        )
    _require_distinct(table, dict.fromkeys(label_names, 1))
    labels = np.zeros((len(table.rows), len(label_names)), np.uint8)
    for column, label in enumerate(label_names):
        for row, (line, cell) in enumerate(_cells(table, label)):
            if cell not in {"0", "1"}:
                raise InputError(
                    f"labels must be 0 or 1. Received: {cell!r} in {table.path}, line {line}, column {label!r}"
                )
            labels[row, column] = cell == "1"
    return label_names, labels


def _require_distinct(table: CsvTable, first_lines: Mapping[str, int]) -> None:
    spelt: dict[str, str] = {}
    for label, line in sorted(first_lines.items(), key=lambda item: item[1]):
        twin = spelt.setdefault(" ".join(label.casefold().split()), label)
        if twin != label:
            raise InputError(
                f"labels must differ by more than case and blanks. "
                f"Received: {twin!r} and {label!r} in {table.path}, lines {first_lines[twin]} and {line}"
            )
