"""Vector datasets in ARFF files with Mulan's XML list of labels.

`--dataset=arff --data_dir=DIR`: DIR holds `<anything>-train.arff`, `<anything>-test.arff` and `<anything>.xml`, or one
`<anything>.arff` and its XML, of which about 25% become the test split (see `splitting`). Names may carry `-sparse`. An
ARFF file that is not UTF-8 has the encoding that the XML declares, else Latin-1.
"""

import dataclasses
import logging
import pathlib
import re
import xml.etree.ElementTree
from collections.abc import Mapping

import numpy as np

from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import existing_folder
from mulsupcon_tf.datasets.label_lists import partial_labels
from mulsupcon_tf.datasets.splitting import finish_dataset
from mulsupcon_tf.datasets.vectors.arff_table import ArffTable, Attribute, plain_name, read_table
from mulsupcon_tf.utils.atomic_file import regular_file
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import nearest

# Names that begin with a dot are not data: macOS writes `._x` beside `x`.
_FILE_NAME = re.compile(r"(?P<stem>[^.].*?)(?:-sparse)?(?:-(?P<part>train|test))?(?:-sparse)?\.arff", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"""<\?xml[^>]*\sencoding\s*=\s*["']([A-Za-z][A-Za-z0-9._-]*)["']""")
_LEAST_ROWS = 10  # in which a nominal attribute with a value for each row is no accident
_logger = logging.getLogger("mulsupcon_tf")


@dataclasses.dataclass(frozen=True)
class ArffFiles:
    """The files of one dataset; `train` is the whole of it where `test` is None."""

    train: pathlib.Path
    test: pathlib.Path | None
    labels: pathlib.Path


def load_arff(name: str, data_dir: str | None, seed: int) -> MultiLabelDataset:
    """Loads `--dataset=arff`: the one dataset that a folder holds.

    Raises:
        InputError: there is no such folder, or see `find_files` and `read_dataset`.
    """
    folder = existing_folder(data_dir, name)
    files = find_files(folder)
    if files is None:
        raise InputError(
            "--data_dir must hold <anything>-train.arff, <anything>-test.arff and <anything>.xml, or one .arff and its "
            f".xml, for --dataset={name}. Received: no .arff file in {folder}"
        )
    return read_dataset(name, files, seed)


def find_files(folder: pathlib.Path, stem: str | None = None) -> ArffFiles | None:
    """Finds a dataset in a folder by its file names, in any case.

    Args:
        folder: an existing folder.
        stem: what stands before `-train.arff`; None where the folder must hold one dataset only.

    Returns:
        The files, or None where no `.arff` file has that stem. Train and test files win over an undivided one, a
        sparse file over its dense twin.

    Raises:
        InputError: several datasets where no stem is given, train without test or the reverse, or no XML of that stem.
    """
    found: dict[str, dict[str | None, pathlib.Path]] = {}
    # Sparse files come last and replace their dense twins.
    for path in sorted(folder.iterdir(), key=lambda path: ("-sparse" in path.name.lower(), path.name)):
        match = _FILE_NAME.fullmatch(path.name)
        if match:
            part = match["part"] and match["part"].lower()
            found.setdefault(match["stem"].lower(), {})[part] = path
    if stem is None and len(found) > 1:
        raise InputError(f"--data_dir must hold one ARFF dataset. Received: {', '.join(sorted(found))} in {folder}")
    stem = min(found, default="") if stem is None else stem.lower()
    parts = found.get(stem)
    if parts is None:
        return None
    divided = "train" in parts and "test" in parts
    if not divided and None not in parts:
        raise InputError(f"{stem}-train.arff and {stem}-test.arff must come together. Received: only one in {folder}")
    lists = [path for path in folder.iterdir() if path.name.lower() == f"{stem}.xml"]
    if not lists:
        raise InputError(f"the labels of {stem} must be listed in {stem}.xml. Received: no such file in {folder}")
    if divided:
        return ArffFiles(parts["train"], parts["test"], lists[0])
    return ArffFiles(parts[None], None, lists[0])


def read_dataset(name: str, files: ArffFiles, seed: int, *, published: bool = False) -> MultiLabelDataset:
    """Reads the files of one dataset.

    Label columns are those that the XML names, in the order of the ARFF file. A numeric attribute is one input; a
    nominal one with two values is one input, its numbers where both are numbers, else 0 for the first and 1 for the
    second; any other nominal attribute is one 0/1 input for each value. A string or nominal attribute with another
    value in each row names the samples: it is left out of the inputs, with a warning.

    Args:
        name: to give to the dataset.
        files: what to read.
        seed: of the samples that become validation, and test where there is no such file.
        published: see `splitting.finish_dataset`.

    Raises:
        InputError: a file is missing, empty, cut short or not of its format; a label is no attribute of the ARFF file;
            a value is missing and no label, not finite or for a label neither 0 nor 1; a string attribute does not name the samples;
            train and test declare different attributes. The message gives file and line where there is one.
    """
    names = read_label_names(files.labels)
    encoding = _declared_encoding(files.labels)
    train = read_table(files.train, encoding, may_miss=names)
    columns = _label_columns(train, names, files.labels)
    tables, labels = {"train": train}, {"train": _labels(train, columns)}
    if files.test is not None:
        tables["test"] = read_table(files.test, encoding, may_miss=names)
        _require_same_attributes(train, tables["test"])
        labels["test"] = _labels(tables["test"], columns)
    unused = _identifiers(tables, columns)
    for column in unused:
        _logger.warning(
            "%s: attribute %r has another value in each row: it names the samples and is no input",
            name,
            train.attributes[column].name,
        )
    parts = {part: Split(_inputs(table, {*columns, *unused}), labels[part]) for part, table in tables.items()}
    label_names = tuple(train.attributes[column].name for column in columns)
    return finish_dataset(name, "vector", label_names, parts, seed, published=published)


def read_label_names(path: pathlib.Path) -> tuple[str, ...]:
    """Reads Mulan's XML list of labels; those nested below others (hierarchies) count like all.

    Raises:
        InputError: the file cannot be read, is no XML, or lists no label, one without a name or one twice.
    """
    try:
        root = xml.etree.ElementTree.parse(regular_file(path)).getroot()
    except OSError as error:
        raise InputError(f"a list of labels must be readable. Received: {path} ({error.strerror})") from None
    except (xml.etree.ElementTree.ParseError, ValueError, LookupError) as error:  # the latter two: unknown encodings
        raise InputError(f"a list of labels must be XML. Received: {path} ({error})") from None
    labels = [element for element in root.iter() if element.tag.rpartition("}")[2] == "label"]
    names = tuple(plain_name(label.get("name", "")) for label in labels)
    if not names or not all(names) or len(set(names)) < len(names):
        fault = "none" if not names else "one twice" if all(names) else "one without a name"
        raise InputError(f'a list of labels must give each as <label name="...">, once. Received: {fault} in {path}')
    return names


def _declared_encoding(path: pathlib.Path) -> str:
    """That of an XML file where it is no UTF, which an ARFF file shows by itself; else Latin-1."""
    match = _XML_ENCODING.match(regular_file(path).read_bytes()[:200])
    encoding = match[1].decode() if match else "utf-8"
    return "latin-1" if encoding.lower().startswith("utf") else encoding


def _label_columns(table: ArffTable, names: tuple[str, ...], list_path: pathlib.Path) -> list[int]:
    positions = {attribute.name: column for column, attribute in enumerate(table.attributes)}
    for name in names:
        if name not in positions:
            raise InputError(
                f"every label of {list_path.name} must be an attribute of {table.path}. "
                f"Received: {name!r} (nearest attribute: {nearest(name, positions)!r})"
            )
    if len(names) == len(positions):
        raise InputError(f"an ARFF file must have attributes that are no labels. Received: {table.path}")
    return sorted(positions[name] for name in names)


def _require_same_attributes(train: ArffTable, test: ArffTable) -> None:
    if train.attributes == test.attributes:
        return
    for position, (ours, theirs) in enumerate(zip(train.attributes, test.attributes, strict=False), start=1):
        if ours != theirs:
            difference = f"attribute {position} is {_declaration(ours)} and {_declaration(theirs)}"
            break
    else:
        difference = f"{len(train.attributes)} and {len(test.attributes)} attributes"
    raise InputError(f"train and test must declare the same. Received: {difference} in {train.path} and {test.path}")


def _declaration(attribute: Attribute) -> str:
    kind = "string" if attribute.is_text else "numeric"
    kind = kind if attribute.values is None else "{" + ",".join(attribute.values[:5]) + "}"
    return f"{attribute.name!r} {kind}"


def _identifiers(tables: Mapping[str, ArffTable], label_columns: list[int]) -> list[int]:
    """The columns that tell each row of a table from the others by a word."""
    found = []
    for column, attribute in enumerate(tables["train"].attributes):
        nominal = attribute.values is not None and len(attribute.values) > 2 and column not in label_columns
        if not nominal and not attribute.is_text:
            continue
        rows = sum(len(table.codes) for table in tables.values())
        distinct = all(len(np.unique(table.codes[:, column])) == len(table.codes) for table in tables.values())
        if distinct and (attribute.is_text or rows >= _LEAST_ROWS):
            found.append(column)
        elif attribute.is_text:
            raise InputError(
                f"ARFF attributes must be numeric or nominal; a string may only name the samples, each by another. "
                f"Received: {tables['train'].path}, string attribute {attribute.name!r}"
            )
    return found


def _inputs(table: ArffTable, others: set[int]) -> np.ndarray:
    """`[N, F]` float32: all columns but the `others`, nominal ones as numbers."""
    sources: list[int] = []
    numbers: dict[int, np.ndarray] = {}
    indicators: dict[int, int] = {}
    for column, attribute in enumerate(table.attributes):
        if column in others:
            continue
        if attribute.values is None or len(attribute.values) == 2:
            values = _numbers(attribute)
            if values is not None and not np.array_equal(values, [0, 1]):
                numbers[len(sources)] = values
            sources.append(column)
        else:
            for code in range(len(attribute.values)):
                indicators[len(sources)] = code
                sources.append(column)
    inputs = table.codes[:, sources]
    for position, values in numbers.items():
        inputs[:, position] = values[inputs[:, position].astype(int)]
    for position, code in indicators.items():
        inputs[:, position] = inputs[:, position] == code
    return inputs


def _labels(table: ArffTable, label_columns: list[int]) -> np.ndarray:
    """`[N, C]` uint8, or float32 with NaN for unknown ones, `?` in the file."""
    labels = np.empty((len(table.codes), len(label_columns)), np.float32)
    for position, column in enumerate(label_columns):
        attribute = table.attributes[column]
        codes = table.codes[:, column]
        unknown = np.isnan(codes)
        if attribute.values is not None:
            numbers = _numbers(attribute)
            places = np.where(unknown, 0, codes).astype(int)
            codes = np.full(len(codes), 2.0) if numbers is None else numbers[places]
        codes = np.where(unknown, np.nan, codes)
        wrong = np.flatnonzero((codes != 0) & (codes != 1) & ~unknown)
        if len(wrong):
            row = wrong[0]
            received = table.codes[row, column]
            if attribute.values is not None:
                received = attribute.values[int(received)]
            raise InputError(
                f"a label must be 0 or 1. "
                f"Received: {received} for {attribute.name!r} in {table.path}, line {table.lines[row]}"
            )
        labels[:, position] = codes
    return partial_labels(labels, np.isnan(labels))


def _numbers(attribute: Attribute) -> np.ndarray | None:
    """Returns the values of a nominal attribute as float32; None for a numeric one, or where a value is no number."""
    try:
        numbers = np.array([float(value) for value in attribute.values or ()], np.float32)
    except ValueError:
        return None
    return numbers if len(numbers) and np.isfinite(numbers).all() else None
