"""What lies below a folder, links followed."""

import logging
import os
import pathlib
from collections.abc import Collection, Iterator


def visible_files(folder: pathlib.Path, suffixes: Collection[str]) -> list[pathlib.Path]:
    """The files below a folder that have one of these suffixes, in any case, in order; hidden ones are left out.

    Links count, to files and to folders: an album may lie on another disk. One that leads back to where it stands is not followed.
    A folder that cannot be read is left out, which a warning says.
    """
    paths = (pathlib.Path(path) for path in _files_below(str(folder), ()))
    return sorted(path for path in paths if path.suffix.lower() in suffixes)


def _files_below(folder: str, above: tuple[str, ...]) -> Iterator[str]:
    """The paths of files below a folder, of which `above` names the folders that led to it, without links."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        logging.getLogger("mulsupcon_tf").warning("warning: %s is left out (%s)", folder, error.strerror)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        # False for a link that leads nowhere or to itself, of which `entry` would raise; and for a pipe.
        if os.path.isdir(entry.path):  # noqa: PTH112 paths are text here
            yield from _files_below(entry.path, (*above, real))
        elif os.path.isfile(entry.path):  # noqa: PTH113
            yield entry.path
