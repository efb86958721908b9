"""Which file of a folder is which split: recognised by whole words of its name, never by letters inside another word.

`latest_train.h5`, `festival-train.h5` and `yeastTrain.h5` are train and nothing else. The words: train (training), val
(valid, validation, dev), test (testing), and trainval, or train and val together, for both in one file.
"""

import logging
import pathlib
import re

from mulsupcon_tf.utils.errors import InputError

_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
    "trainval": ("trainval",),
}
_CAPITAL_AFTER_WORD = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_logger = logging.getLogger("mulsupcon_tf")


def find_split_files(folder: pathlib.Path, suffixes: tuple[str, ...]) -> dict[str, pathlib.Path]:
    """Finds the one file of each split; hidden files do not count, and those that name no split are reported.

    A trainval file is used where there is no train file; a val file beside it is not read then, since trainval holds
    its samples too.

    Args:
        folder: an existing folder.
        suffixes: of the files that count, in lower case.

    Returns:
        Paths of "train", "test" and, where there is one of its own, "validation".

    Raises:
        InputError: train or test is missing, two files claim one split, or one file claims test and another.
    """
    found: dict[str | None, list[pathlib.Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            found.setdefault(_role(path), []).append(path)
    unnamed = ", ".join(path.name for path in found.pop(None, []))
    train = "trainval" if "trainval" in found and "train" not in found else "train"
    wanted = {"train": train, "test": "test"}
    if train == "train" and "val" in found:
        wanted["validation"] = "val"
    for role in wanted.values():
        files = ", ".join(path.name for path in found.get(role, []))
        if len(found.get(role, [])) != 1:
            raise InputError(
                f"--data_dir must hold one {' or '.join(suffixes)} file with the word {role!r} in its name. "
                f"Received: {files or 'none'} in {folder}{f', beside {unnamed}' if unnamed and not files else ''}"
            )
    if unnamed:
        _logger.warning("%s: not read, since no word of the name says which split it is: %s", folder, unnamed)
    return {split: found[role][0] for split, role in wanted.items()}


def _role(path: pathlib.Path) -> str | None:
    """What the name says: "train", "val", "test" or "trainval"; None for nothing."""
    words = {word.lower() for word in re.findall(r"[^\W\d_]+", _CAPITAL_AFTER_WORD.sub(" ", path.stem))}
    roles = [role for role, spellings in _WORDS.items() if words.intersection(spellings)]
    if "test" in roles and len(roles) > 1:
        raise InputError(
            "a file must be of one split, which a word of its name says (train, val or test). "
            f"Received: {' and '.join(roles)} in the name of {path}"
        )
    return "trainval" if len(roles) > 1 else next(iter(roles), None)
