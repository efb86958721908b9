"""Paths that a user writes: of this machine's file system, with `~` for the home folder."""

import os
import pathlib
import re

from mulsupcon_tf.utils.errors import InputError

# gs://bucket/x, s3://, hdfs://, dbfs:/x, file:///x; one letter is a drive of Windows.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def expanded(text: str, name: str) -> str:
    """The path with `~` or `~user` at its beginning replaced by that home folder, as a shell does it.

    Args:
        text: as given.
        name: what it is called in a message, such as `--workdir`.

    Raises:
        InputError: it is the address of something elsewhere, or there is no such home folder and no file of that name.
    """
    if _ADDRESS.match(text):
        raise InputError(
            f"{name} must be a path of this machine's file system: copy or mount what lies elsewhere. Received: {text}"
        )
    found = os.path.expanduser(text)  # noqa: PTH111 (pathlib's raises another error)
    if found.startswith("~") and not pathlib.Path(found).exists():
        raise InputError(f"{name} must begin with an existing home folder, or with ./~ for a name. Received: {text}")
    return found


def normal_path(text: str, name: str) -> str:
    """The `expanded` path in one spelling: `./x` and `x//` are `x`.

    Raises:
        InputError: see `expanded`; or it ends in a space, which files of flags do not keep.
    """
    if text != text.rstrip():
        raise InputError(f"{name} must not end in a space; rename the file or folder. Received: {text!r}")
    path = str(pathlib.Path(expanded(text, name)))
    # Read once more it is to mean the same.
    return f"./{path}" if path.startswith("~") or _ADDRESS.match(path) else path
