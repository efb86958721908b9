"""Tables of photos as many programs write them, and the same with damages, against Python's own csv module."""

import ast
import csv
import dataclasses
import io
import pathlib
import random
import re
import unicodedata

import pytest

from mulsupcon_tf.datasets.images.image_csv import TABLE
from mulsupcon_tf.datasets.registry import load_dataset
from tests.campaign.inputs import SCALES, campaign, chosen, contents, damaged, put, reading_of, with_lines_moved
from tests.datasets.splits_by_hash import place

PHOTOS = (
    *(f"photos/{number:03}.jpg" for number in range(40)),
    "a.jpg",
    "A.jpg",
    "b c.png",
    "Übung.jpg",
    "u\u0308bung.jpg",
    "日本/写真 1.jpg",
    "deep/er/e.webp",
    "x;y.jpg",
    "x,y.jpg",
    'quo"te.jpg',
    "it's.jpg",
    "#1.jpg",
    "100%.bmp",
    "nan",
    "train.jpg",
    "-.gif",
    "[1].jpg",
    "no_suffix",
    "true.jpg",
)
LABELS = ("sea", "beach", "hot dog", "Übung", "traffic light", "2", "x-ray", "日本", "files", "nano")
NONE = ("", "nan", "None", "NULL", "n/a", "[]")
TRUTHS = (("1", "0"), ("True", "False"), ("yes", "no"), ("1.0", "0.0"), ("T", "F"), ("Y", "N"))
PARTS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
CELLS = (
    "",
    "nan",
    "2",
    "-1",
    "1e999",
    "0.5",
    "../up.jpg",
    "/etc/passwd",
    "C:\\x.jpg",
    "photos",
    "9" * 140_000,
    "a\0b",
    "sea\nbeach",
    "'",
    '"',
    "\ufeff",
    "photos/000.jpg",
    "gone.jpg",
    "\u202e",
    "x" * 300,
    "val",
    "Train",
    "1_0",
    "sea;sea",
)


@dataclasses.dataclass
class Dialect:
    """How a table is written. `separator` is what divides labels in a cell; None where each label has a column."""

    delimiter: str
    encoding: str
    line_end: str
    quote_all: bool
    separator: str | None
    split_column: str | None
    number_column: str | None
    truths: tuple[str, str]

    @property
    def options(self):
        return {"label_separator": {",": ",", " ": "space"}[self.separator]} if self.separator in (",", " ") else {}


def dialect(random_: random.Random) -> Dialect:
    delimiter = random_.choice(",,;\t")
    separator = random_.choice((None, None, ";", ";", "|", "\n", "；", ",", " ", "python"))
    return Dialect(
        delimiter=delimiter,
        encoding=random_.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")),
        line_end=random_.choice(("\n", "\r\n", "\r")),
        quote_all=random_.random() < 0.3,
        separator=separator,
        split_column=random_.choice((None, "split", "SPLIT", "is_valid", "Is_Valid")),
        number_column=random_.choice((None, None, "", "Unnamed: 0")),
        truths=("1,0", "0,0") if delimiter == ";" and random_.random() < 0.2 else random_.choice(TRUTHS),
    )


def names_of(photo: str, random_: random.Random) -> str:
    """One of the ways in which people write a path."""
    if "\\" in photo or random_.random() < 0.7:
        return photo
    return random_.choice((f"./{photo}", photo.replace("/", "\\"), photo.replace("/", "//"), f" {photo} "))


def case(random_: random.Random):
    """A dialect, a table of texts, header first, and what it says: file to (split or None, labels)."""
    written = dialect(random_)
    spaced = written.separator == " "
    labels = random_.sample([label for label in LABELS if not spaced or " " not in label], random_.randint(2, 5))
    photos = random_.sample(PHOTOS, random_.randint(30, len(PHOTOS)))
    parts = random_.choice(
        (["train", "val", "test"], ["train", "test"], ["train", "validation"], ["Train", "VAL", "TEST"])
    )
    says = {}
    rows = []
    for number, photo in enumerate(photos):
        own = {labels[number]} if number < len(labels) else set(chosen(random_, labels))
        own |= set(labels[:2]) if number == 0 else set()
        split = None
        row = {"file": names_of(photo, random_)}
        if written.split_column and written.split_column.lower() == "split":
            split = parts[0] if number < len(labels) else random_.choice(parts)
            row["split"], split = split, PARTS[split.lower()]
        elif written.split_column:
            valid = number >= len(labels) and random_.random() < 0.3
            row["is_valid"], split = written.truths[not valid], "validation" if valid else "train"
        row |= cells_of_labels(own, labels, written, random_)
        says[photo] = (split, frozenset(own))
        rows.append(row)
    columns = list(rows[0])
    random_.shuffle(columns)
    titles = {
        "split": written.split_column,
        "is_valid": written.split_column,
        "file": random_.choice(("file", "File", "FILE")),
    }
    table = [
        [titles.get(column) or column for column in columns],
        *([row[column] for column in columns] for row in rows),
    ]
    if written.number_column is not None:
        for number, row in enumerate(table):
            row.insert(0, str(number - 1) if number else written.number_column)
    if random_.random() < 0.2:
        table = [[*row, "", ""] for row in table]
    if random_.random() < 0.2:
        table.insert(random_.randrange(1, len(table)), [""] * len(table[0]))
    return written, table, says


def cells_of_labels(own: set[str], labels: list[str], written: Dialect, random_: random.Random) -> dict[str, str]:
    if written.separator is None:
        return {label: written.truths[label not in own] for label in labels}
    listed = sorted(own)
    random_.shuffle(listed)
    if written.separator == "python":
        return {"labels": repr(listed)}
    if not listed:
        return {"labels": random_.choice(NONE)}
    if random_.random() < 0.1:
        listed.append(listed[0])
    space = random_.choice(("", " ")) if written.separator != " " else ""
    return {"labels": f"{space}{written.separator}{space}".join(listed)}


def as_bytes(table: list[list[str]], written: Dialect) -> bytes:
    stream = io.StringIO(newline="")
    # The writer leaves a line break of another kind than its own without quotes.
    quoting = csv.QUOTE_ALL if written.quote_all or written.separator == "\n" else csv.QUOTE_MINIMAL
    csv.writer(stream, delimiter=written.delimiter, lineterminator=written.line_end, quoting=quoting).writerows(table)
    return stream.getvalue().encode(written.encoding)


def read_independently(content: bytes, written: Dialect) -> dict[str, tuple[str | None, frozenset[str]]]:
    """What a table says in its dialect; ValueError where it says nothing sure."""
    text = content.decode(written.encoding)
    header, *rows = [
        [cell.strip() for cell in row]
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=written.delimiter, strict=True)
        if any(cell.strip() for cell in row)
    ]
    own = [name.lower() if name.lower() in ("file", "labels", "split", "is_valid") else name for name in header]
    says = {}
    for row in rows:
        record = {name: cell for name, cell in zip(own, row, strict=True) if name not in ("", "Unnamed: 0")}
        file = re.sub(r"^(\./+)+", "", re.sub(r"/+", "/", record.pop("file").replace("\\", "/")))
        split = PARTS[record.pop("split").lower()] if record.get("split") else None
        record.pop("split", None)
        if "is_valid" in record:
            split = "validation" if is_true(record.pop("is_valid")) else "train"
        if "labels" in record:
            labels = listed_labels(record["labels"], written)
        else:
            unknown = {name for name, cell in record.items() if cell in ("", "?", "-1", "-1.0")}
            labels = {f"?{name}" for name in unknown}
            labels |= {name for name, cell in record.items() if name not in unknown and is_true(cell)}
        if file in says:
            raise ValueError(f"{file} twice")
        says[file] = (split, frozenset(labels))
    return says


def listed_labels(cell: str, written: Dialect) -> set[str]:
    if written.separator == "python" and cell.startswith("["):
        return {label.strip() for label in ast.literal_eval(cell)}
    if cell.lower() in {none.lower() for none in NONE}:
        return set()
    parts = (
        cell.replace("\r\n", "\n").replace("\r", "\n").split(written.separator if written.separator != " " else None)
    )
    return {part.strip() for part in parts} - {*NONE}


def is_true(cell: str) -> bool:
    word = cell.lower()
    if re.fullmatch(r"[+-]?[\d.,]+", word):
        word = f"{float(word.replace(',', '.')):g}"
    return {
        "1": True,
        "true": True,
        "yes": True,
        "t": True,
        "y": True,
        **dict.fromkeys(("0", "false", "no", "f", "n"), False),
    }[word]


def expected(says):
    """Where each file belongs: as the table says, else by its hash; None where so few samples were drawn that one moved."""
    given = {split for split, _ in says.values()} - {None}
    missing = [part for part in ("test", "validation") if part not in given]
    where = {}
    for file, (split, labels) in says.items():
        name = unicodedata.normalize("NFC", file)
        where[name] = (place(name, parts=missing) if split in (None, "train") else split, labels)
    return where if {split for split, _ in where.values()} == {"train", "validation", "test"} else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("photos")
    for photo in PHOTOS:
        (path / photo).parent.mkdir(parents=True, exist_ok=True)
        (path / photo).write_bytes(b"")
    return path


@pytest.mark.parametrize("times", SCALES)
def test_tables_in_every_dialect_are_read_as_they_were_written(folder, times):
    def attempt(random_):
        written, table, says = case(random_)
        content = as_bytes(table, written)
        put(folder / TABLE, content)
        dataset, refusal = reading_of(lambda: load_dataset("csv", folder, **written.options))
        assert refusal is None, f"{refusal} {written} {content[:300]!r}"
        assert read_independently(content, written) == says
        where = expected(says)
        assert where is None or contents(dataset) == where, f"{written} {content[:300]!r}"

    campaign("tables", 300 * times, attempt)


@pytest.mark.parametrize("times", SCALES)
def test_damaged_tables_are_refused_or_read_as_they_stand(folder, times):
    def attempt(random_):
        written, table, _ = case(random_)
        accident = random_.choice(("bytes", "bytes", "lines", "cell", "cell", "columns"))
        if accident == "cell":
            row = random_.choice(table)
            row[random_.randrange(len(row))] = random_.choice(CELLS)
        if accident == "columns":
            first, second = random_.randrange(len(table[0])), random_.randrange(len(table[0]))
            for row in table[: random_.choice((1, len(table)))]:
                row[first], row[second] = row[second], row[first]
        content = as_bytes(table, written)
        if accident == "lines":
            content = with_lines_moved(content.decode(written.encoding), random_).encode(written.encoding)
        if accident == "bytes":
            content = damaged(content, random_)
        put(folder / TABLE, content)
        dataset, refusal = reading_of(lambda: load_dataset("csv", folder, **written.options))
        if refusal is None:
            where = expected(read_independently(content, written))
            assert where is None or contents(dataset) == where, f"{accident} {written} {content[:300]!r}"

    campaign("damaged tables", 300 * times, attempt)
