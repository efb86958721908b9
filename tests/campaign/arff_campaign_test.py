"""ARFF files as Weka, Mulan and people write them, and the same with damages, against SciPy's reader and a loop."""

import csv
import io
import random
import re
import xml.etree.ElementTree

import numpy as np
import pytest
import scipy.io.arff

from mulsupcon_tf.datasets.registry import load_dataset
from tests.campaign.inputs import SCALES, campaign, damaged, put, reading_of, with_lines_moved
from tests.datasets.splits_by_hash import place

NUMBERS = ("0", "1", "-1", "0.5", "-2.25", "1e3", "1E-3", "+4", ".5", "7.", "123456789", "1e-30", "3.4e38")
VALUES = ("?", "nan", "1e400", "{", "}", "'", '"', "0x10", "Infinity", "%", "-inf", "", "b", "2", "1e39", "{0 1}", "\\")
COLOURS = ("red", "light blue", "it's", "50%")
SIZES = ("2", "5")


def case(random_: random.Random):
    """Declarations (name, type, values), whether each is a label, and rows of texts."""
    kinds = [("key", "numeric", None), *((f"x{column}", *kind(random_)) for column in range(random_.randint(1, 4)))]
    labels = [(name, "{0,1}", ("0", "1")) for name in random_.sample(("sea", "hot dog", "it's", "100%", "Übung"), 3)]
    columns = [(declared, False) for declared in kinds] + [(declared, True) for declared in labels]
    random_.shuffle(columns)
    rows = []
    for number in range(random_.randint(16, 30)):
        row = []
        for (name, _, values), is_label in columns:
            if is_label and number < 3:
                text = str(int(name == labels[number][0]))
            elif name == "key":
                text = str(number + 1)  # a row of zeros is left out of nothing, and no two rows are equal
            else:
                text = random_.choice(values or NUMBERS)
            row.append(text)
        rows.append(row)
    return columns, rows


def kind(random_: random.Random) -> tuple[str, tuple[str, ...] | None]:
    return random_.choice(
        (
            ("numeric", None),
            ("REAL", None),
            ("Integer [0,9]", None),
            ("real [-1.5, 3)", None),
            ("{0,1}", ("0", "1")),
            ("{2, 5}", SIZES),
            ("{'no','yes'}", ("no", "yes")),
            ("{red,'light blue','it\\'s',\"50%\"}", COLOURS),
        )
    )


def quoted(text: str) -> str:
    plain = text.isascii() and re.sub("[.+-]", "", text).isalnum()
    return text if plain else "'" + text.replace("'", "\\'") + "'"


def written(columns, rows, random_: random.Random, *, plain: bool) -> str:
    """The text of a file; a plain one is what the simplest program writes."""
    sparse = random_.random() < 0.4
    between = "," if plain else random_.choice((",", ", ", "\t", " ", " , "))
    keyword = str.lower if plain else random_.choice((str.lower, str.upper, str.title))
    lines = [] if plain else ["% a comment", ""]
    lines += [f"{keyword('@relation')} 'a b: -C 2'", ""]
    for (name, declared, _), _ in columns:
        comment = "" if plain else random_.choice(("", " % said why", "\t%x"))
        space = " " if plain else random_.choice((" ", "\t", "  "))
        lines.append(f"{keyword('@attribute')}{space}{quoted(name)}{space}{declared}{comment}")
    lines += [keyword("@data")]
    for row in rows:
        if sparse:
            pairs = [
                f"{index} {quoted(text)}"
                for index, (text, ((_, _, values), _)) in enumerate(zip(row, columns, strict=True))
                if text != (values[0] if values else "0")
            ]
            line = "{" + (", " if not plain else ",").join(pairs) + "}"
        else:
            line = between.join(quoted(text) for text in row)
        if not plain and random_.random() < 0.1:
            line += random_.choice((",{1}", " % a note", " "))
        lines += [line] if plain or random_.random() < 0.95 else ["", "% between", line]
    return ("\n" if plain else random_.choice(("\n", "\r\n"))).join([*lines, ""])


def list_of_labels(columns, encoding="utf-8") -> bytes:
    root = xml.etree.ElementTree.Element("labels", xmlns="http://mulan.sourceforge.net/labels")
    for (name, _, _), is_label in columns:
        if is_label:
            xml.etree.ElementTree.SubElement(root, "label", name=name)
    return xml.etree.ElementTree.tostring(root, encoding=encoding, xml_declaration=True)


def table(columns, rows):
    """Inputs `[N, F]` and labels `[N, C]`, -1 where unknown, of texts, by the rules that the dataset's page states."""
    inputs, labels = [], []
    for row in rows:
        values, own = [], []
        for text, ((_, _, values_of), is_label) in zip(row, columns, strict=True):
            if is_label:
                own.append(-1 if text == "?" else int(text))
            elif values_of is None:
                values.append(float(text))
            elif len(values_of) == 2:
                values.append(float(text) if values_of[0].isdigit() else values_of.index(text))
            else:
                values += [float(text == each) for each in values_of]
        inputs.append(values)
        labels.append(own)
    with np.errstate(over="ignore"):
        return np.array(inputs, np.float32), np.array(labels)


def by_place(inputs, labels, parts):
    """Maps the bytes of each row to its split and labels; equal rows are one, as they are in one split."""
    found = {}
    for row, own in zip(inputs + np.float32(0), labels, strict=True):
        found.setdefault((place(row.tobytes(), parts=parts), row.tobytes()), []).append(own.tolist())
    return found


def found_in(dataset):
    found = {}
    for part, split in dataset.splits.items():
        labels = np.where(split.unknown, -1, split.labels)
        for row, own in zip(split.inputs + np.float32(0), labels, strict=True):
            found.setdefault((part, row.tobytes()), []).append(own.tolist())
    return found


def require_equal(dataset, inputs, labels):
    expected = by_place(inputs, labels, ("test", "validation"))
    if {part for part, _ in expected} == {"train", "validation", "test"}:  # else one of so few was moved
        assert found_in(dataset) == expected
    else:
        assert sum(map(len, dataset.splits.values())) == len(inputs)


@pytest.mark.parametrize("times", SCALES)
def test_files_in_every_dialect_are_read_as_they_were_written(tmp_path, times):
    def attempt(random_):
        columns, rows = case(random_)
        encoding = random_.choice(("utf-8", "utf-8-sig", "latin-1", "utf-16"))
        text = written(columns, rows, random_, plain=False)
        put(tmp_path / "t.arff", text.encode(encoding))
        put(tmp_path / "t.xml", list_of_labels(columns, "ISO-8859-1" if encoding == "latin-1" else "utf-8"))
        dataset, refusal = reading_of(lambda: load_dataset("arff", tmp_path))
        assert refusal is None, f"{refusal} {text}"
        names = tuple(name for (name, _, _), is_label in columns if is_label)
        assert dataset.label_names == names, text
        try:
            require_equal(dataset, *table(columns, rows))
        except AssertionError as error:
            raise AssertionError(f"{error} {text}") from None

    campaign("ARFF", 150 * times, attempt)


def read_independently(text: str, columns):
    """Rows of texts of a plain file whose declarations stand, by a loop; ValueError where they do not."""
    header, _, body = text.partition("@data\n")
    declared = [line for line in header.splitlines() if line.startswith("@attribute ")]
    if declared != [f"@attribute {quoted(name)} {kind}" for (name, kind, _), _ in columns]:
        raise ValueError("declarations are damaged")
    rows = []
    for written_line in filter(str.strip, body.split("\n")):
        # Any control character divides values, as in Weka.
        line = re.sub(r"(?<=[^\s,])[\x01-\x1f]+(?=[^\s,])", ",", written_line)
        if line.startswith("%"):
            continue
        if line.startswith("{"):
            row = [values[0] if values else "0" for (_, _, values), _ in columns]
            pairs = next(
                csv.reader(io.StringIO(line.strip()[1:-1]), quotechar="'", escapechar="\\", skipinitialspace=True)
            )
            for pair in pairs:
                index, _, value = pair.strip().partition(" ")
                row[int(index)] = value.strip().strip("'").replace("\\'", "'")
        else:
            row = next(csv.reader(io.StringIO(line.strip()), quotechar="'", escapechar="\\", skipinitialspace=True))
        if len(row) != len(columns):
            raise ValueError("a row of another width")
        rows.append([each.strip() for each in row])
    return rows


@pytest.mark.parametrize("times", SCALES)
def test_damaged_files_are_refused_or_read_as_they_stand(tmp_path, times):
    def attempt(random_):
        columns, rows = case(random_)
        accident = random_.choice(("bytes", "bytes", "lines", "value", "value", "list"))
        if accident == "value":
            row = random_.choice(rows)
            row[random_.randrange(len(row))] = random_.choice(VALUES)
        text = written(columns, rows, random_, plain=True)
        head, mark, body = text.partition("@data\n")
        whole = random_.random() < 0.3
        if accident == "lines":
            text = with_lines_moved(text, random_) if whole else head + mark + with_lines_moved(body, random_)
        content = text.encode()
        if accident == "bytes":
            content = damaged(content, random_) if whole else (head + mark).encode() + damaged(body.encode(), random_)
        labels_of = list_of_labels(columns)
        if accident == "list":
            labels_of = damaged(labels_of, random_)
        put(tmp_path / "t.arff", content)
        put(tmp_path / "t.xml", labels_of)
        dataset, refusal = reading_of(lambda: load_dataset("arff", tmp_path))
        if refusal is not None or accident == "list" or not content.decode(errors="replace").startswith(head + mark):
            return
        try:
            rows = read_independently(content.decode(), columns)
            require_equal(dataset, *table(columns, rows))
            beyond_scipy = "{" in body or any(values == COLOURS for (_, _, values), _ in columns)
            if not beyond_scipy and not re.search(rb"[\x01-\x09\x0b-\x1f]", content):
                data, _ = scipy.io.arff.loadarff(io.StringIO(content.decode()))
                for position, ((_, _, values), _) in enumerate(columns):
                    texts = [row[position] if values is None else row[position].encode() for row in rows]
                    np.testing.assert_array_equal(
                        data[data.dtype.names[position]], np.array(texts, float if values is None else None)
                    )
        except (ValueError, IndexError, AssertionError, scipy.io.arff.ArffError) as error:
            raise AssertionError(
                f"{type(error).__name__} {error} {accident} {content.decode(errors='replace')}"
            ) from None

    campaign("damaged ARFF", 150 * times, attempt)
