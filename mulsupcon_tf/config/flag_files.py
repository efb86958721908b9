"""Files of flags: those of the package, which `--flagfile=@NAME` means, and how such a file joins a command line."""

import itertools
import pathlib
import re
from collections.abc import Iterator, Sequence

from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import nearest

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
_SUFFIX = ".flags"
_MOST_FILES = 100  # that a command line reads: files that name others twice are read 2^n times


def flag_folder() -> pathlib.Path:
    """The folder of the package's files: inside it where it is installed, beside it in a checkout."""
    inside = _PACKAGE / "flags"
    return inside if inside.is_dir() else _PACKAGE.parent / "flags"


def flag_file_names() -> tuple[str, ...]:
    """What may follow the @: `csv_pretrain`, `experiments/held_out` and so on."""
    folder = flag_folder()
    return tuple(sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob(f"*{_SUFFIX}")))


def package_file(name: str) -> pathlib.Path:
    """The path of one of the package's files.

    Raises:
        InputError: there is none of this name.
    """
    names = flag_file_names()
    if name not in names:
        raise InputError(
            f"--flagfile=@NAME must name a flag file of the package, which `mulsupcon` lists. "
            f"Received: --flagfile=@{name} (nearest: @{nearest(name, names)})"
        )
    return flag_folder() / f"{name}{_SUFFIX}"


def with_flag_files(arguments: Sequence[str]) -> list[str]:
    """A command line with the lines of each flag file in place of its `--flagfile`.

    In a file each line is one argument; empty lines and those that begin with # or // are left out. A file may name
    others. What comes later wins, as on the command line.

    Args:
        arguments: of the command line, without the program's name; those after `--` stay as they are.

    Raises:
        InputError: a file cannot be read, leads back to itself, or is none of the package's; they are too many.
    """
    return _expanded(arguments, (), itertools.count(1))


def _expanded(arguments: Sequence[str], within: tuple[pathlib.Path, ...], counter: Iterator[int]) -> list[str]:
    """As `with_flag_files`, within files that are being read, the outermost first; the counter says how many were read."""
    expanded: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        match = re.fullmatch(r"--?flagfile(?:=(.*))?", argument, flags=re.DOTALL)
        if match:
            name = next(rest, None) if match[1] is None else match[1].strip()
            if name is None:
                raise InputError(f"--flagfile must name a file. Received: {argument} at the end of the line")
            expanded += _arguments_of(name, within, counter) if name else []
        else:
            expanded.append(argument)
            if argument == "--":
                expanded += rest
    return expanded


def _arguments_of(name: str, within: tuple[pathlib.Path, ...], counter: Iterator[int]) -> list[str]:
    path = package_file(name[1:]) if name.startswith("@") else pathlib.Path(name).expanduser()
    if path in within:
        raise InputError(f"A flag file must not lead back to itself. Received: {' > '.join(map(str, (*within, path)))}")
    if next(counter) > _MOST_FILES:
        raise InputError(
            f"A command line must read at most {_MOST_FILES} flag files, each as often as it is named. "
            f"Received: more, the last of them {path}"
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        own = [known for known in flag_file_names() if path.as_posix() == f"flags/{known}{_SUFFIX}"]
        hint = f"; the package's own: --flagfile=@{own[0]}" if own else ""
        raise InputError(
            f"--flagfile must name a file that can be read. Received: --flagfile={name} ({error.strerror}{hint})"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"--flagfile must name a text in UTF-8. Received: --flagfile={name}") from error
    given = [line.strip() for line in lines if line.strip() and not line.startswith(("#", "//"))]
    return _expanded(given, (*within, path), counter)
