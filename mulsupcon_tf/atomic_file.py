"""Files that are either whole or not there: written beside, flushed to disk, then renamed."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

_PREFIX = ".partial-"


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside `path` to write to; renames it to `path` when the block ends without an error.

    The temporary name keeps the file's suffixes, since some writers choose the format by them.
    """
    temporary = path.with_name(f"{_PREFIX}{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial_files(folder: pathlib.Path) -> None:
    """Removes what processes that were killed in the middle of `replacing` have left in a folder."""
    for path in folder.glob(f"{_PREFIX}*"):
        if path.is_file():
            path.unlink()


def _flush_folder(folder: pathlib.Path) -> None:
    """Puts the rename itself on disk, so that it survives a power failure; Windows has no such call."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
