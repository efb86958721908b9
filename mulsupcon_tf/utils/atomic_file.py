"""Files and folders that are either whole or not there: written beside, flushed to disk, then renamed. And whether one is a file."""

import contextlib
import errno
import hashlib
import os
import pathlib
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator

PARTIAL = ".partial-"  # how the name of what is being written begins


@contextlib.contextmanager
def naming(path: pathlib.Path, *, for_name: pathlib.Path | None = None) -> Iterator[None]:
    """Gives an error of the operating system in the block the name of what is written.

    Args:
        path: of an error without a name: a full disk is met in a write, which knows none.
        for_name: a name in whose place that of `path` is given, too.
    """
    try:
        yield
    except OSError as error:
        if error.errno and (error.filename is None or str(error.filename) == str(for_name)):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside `path` to write to; renames it to `path` when the block ends without an error.

    The temporary name keeps the file's suffixes, since some writers choose the format by them.

    Raises:
        OSError: there is no file at `path` but a device, a pipe or a folder.
    """
    _require_no_device(path)
    temporary = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        with naming(path, for_name=temporary):
            yield temporary
            flush_file(temporary)
            temporary.replace(path)
            _flush_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # it has been renamed, or its folder is none
            temporary.unlink()


def require_writable(path: pathlib.Path) -> None:
    """Tries whether a file could be written, before much is computed for it; nothing is left behind.

    Args:
        path: of the file; folders above it need not be there yet.

    Raises:
        OSError: it could not: the folder is no folder or takes no file; or there is a device, a pipe or a folder at `path`.
    """
    _require_no_device(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    there = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing_folder(path: pathlib.Path, *, replace: bool = True) -> Iterator[pathlib.Path]:
    """The same for a folder: the block fills an empty one.

    Args:
        path: where it will be.
        replace: whether an older folder at `path` is replaced.

    Raises:
        FileExistsError: there is something at `path` when the block ends, which is not to be replaced.
    """
    temporary = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    with naming(path, for_name=temporary):
        temporary.mkdir()
    try:
        with in_use(temporary), naming(path):
            yield temporary
            for part in temporary.rglob("*"):
                _flush_folder(part) if part.is_dir() else flush_file(part)
            if path.exists():
                if not replace:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
                shutil.rmtree(path)
            temporary.replace(path)
            _flush_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _require_no_device(path: pathlib.Path) -> None:
    """Refuses what a rename would do away with: as root, /dev/null, or the link /dev/stdout."""
    is_device = path.exists() and not path.is_file() and not path.is_dir()
    if is_device or (path.is_symlink() and path.readlink().is_relative_to("/proc")):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def remove_partial(folder: pathlib.Path, name: str | None = None) -> None:
    """Removes what killed processes have left in a folder in the middle of `replacing` or `replacing_folder`.

    Args:
        folder: where no other process may be writing files now. A folder that one is still filling stays.
        name: what was being written; None for whatever it was.
    """
    left = re.compile(rf"{re.escape(PARTIAL)}\d+-{'.*' if name is None else re.escape(name)}")
    for path in folder.glob(f"{PARTIAL}*"):
        if not left.fullmatch(path.name):
            continue
        if not path.is_dir():
            path.unlink()
            continue
        with contextlib.suppress(BlockingIOError), in_use(path):
            shutil.rmtree(path)


@contextlib.contextmanager
def in_use(folder: pathlib.Path) -> Iterator[None]:
    """Marks a folder as being written by this process, for as long as it lives; Windows has no such mark.

    Raises:
        BlockingIOError: another process has marked it.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def sha256(path: pathlib.Path) -> str:
    """Checksum of a file, for formats that have none of their own."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_file(path: pathlib.Path) -> None:
    """Puts what was written to a file on disk, so that it survives a power failure."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: pathlib.Path) -> None:
    """Puts the names in a folder, renamed ones too, on disk; Windows has no such call."""
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


def regular_file(path: pathlib.Path) -> pathlib.Path:
    """The path of a file that may be read to its end: some readers say of what they cannot open that it is not there.

    Raises:
        OSError: it is a folder, or a pipe, a device or a socket, which may never end; or it cannot be read.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    path.open("rb").close()
    return path
