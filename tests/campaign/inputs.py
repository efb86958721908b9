"""What the campaigns share: numbered inputs, each from its own seed, and what may happen with one.

An input is read as its writer or an independent reader understands it, or refused by an `InputError` of one line; any
other exception and any other reading is a fault. All inputs are tried, so that one run shows every kind of fault.
"""

import contextlib
import logging
import pathlib
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from mulsupcon_tf.utils.errors import InputError

TEN_TIMES = pytest.param(10, id="ten times as many", marks=pytest.mark.slow)
SCALES = (pytest.param(1, id="a sample"), TEN_TIMES)
_SHOWN = 12
_OF_ABSL = ("Unknown command line flag", "Missing value for flag", "flag --")


def campaign(name: str, count: int, attempt: Callable[[random.Random], None]) -> None:
    """Calls `attempt` with a generator of random numbers for each input, and fails with what went wrong."""
    faults = []
    with _silence():
        for number in range(count):
            try:
                attempt(random.Random(f"{name} {number}"))
            except Exception as fault:
                faults.append(f"{name} {number}: {type(fault).__name__}: {str(fault)[:1500]}")
    assert not faults, f"{len(faults)} of {count}\n" + "\n".join(faults[:_SHOWN])


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without the warnings on thousands of inputs, which pytest would keep."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def put(path: pathlib.Path, content: bytes | str) -> None:
    """Writes a file anew; where the old one is only emptied, some file systems wait for the disk."""
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def reading_of(read: Callable[[], Any]) -> tuple[Any, str | None]:
    """What is read and None, or None and why it is refused."""
    try:
        return read(), None
    except InputError as error:
        message = str(error)
        assert not {"\n", "\r"} & {*message}, f"not one line: {message!r}"
        assert "Received: " in message or message.startswith(_OF_ABSL), f"without what was received: {message!r}"
        return None, message


def damaged(content: bytes, random_: random.Random) -> bytes:
    """The bytes of a file with one accident: cut off, a bit or a byte changed, bytes lost, doubled or of zeros."""
    if not content:
        return content
    start = random_.randrange(len(content))
    length = random_.choice((1, 1, 2, 4, 16, 64))
    accident = random_.choice(("cut", "flip", "flip", "byte", "lose", "double", "zeros"))
    if accident == "cut":
        return content[:start]
    if accident == "flip":
        return content[:start] + bytes([content[start] ^ 1 << random_.randrange(8)]) + content[start + 1 :]
    if accident == "byte":
        return content[:start] + bytes([random_.choice(b"\0\n\r\t\"',;|{}[]()%?019ax\xff\xc3")]) + content[start + 1 :]
    piece = content[start : start + length]
    new = {"lose": b"", "double": piece + piece, "zeros": bytes(len(piece))}[accident]
    return content[:start] + new + content[start + length :]


def with_lines_moved(text: str, random_: random.Random) -> str:
    """The text with one line lost, doubled, or exchanged with another."""
    lines = text.splitlines(keepends=True)
    first, second = random_.randrange(len(lines)), random_.randrange(len(lines))
    accident = random_.choice(("lose", "double", "exchange"))
    if accident == "lose":
        del lines[first]
    elif accident == "double":
        lines.insert(second, lines[first])
    else:
        lines[first], lines[second] = lines[second], lines[first]
    return "".join(lines)


def chosen(random_: random.Random, items: Iterable, most: int | None = None) -> list:
    """Some of the items, perhaps none, in their order."""
    items = list(items)
    number = random_.randint(0, len(items) if most is None else min(most, len(items)))
    return [items[index] for index in sorted(random_.sample(range(len(items)), number))]


def contents(dataset: Any) -> dict[str, tuple[str, frozenset[str]]]:
    """Maps each image file of a dataset, by its name, to its split and its labels; before an unknown one stands a `?`."""
    return {
        name: (
            part,
            frozenset(
                label if has == 1 else f"?{label}" for label, has in zip(dataset.label_names, row, strict=True) if has
            ),
        )
        for part, split in dataset.splits.items()
        for name, row in zip(split.inputs.names, split.labels, strict=True)
    }
