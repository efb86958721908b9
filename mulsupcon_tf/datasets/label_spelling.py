"""How labels look to a reader: names of which nobody sees that they are two are taken for a slip."""

import pathlib
import unicodedata
from collections.abc import Mapping

from mulsupcon_tf.utils.errors import InputError

_JOINER = "\u200d"  # holds emojis together: without it there are several
_TAGS = range(0xE0020, 0xE0080)  # tell flags of regions apart
_VARIANTS = range(0xFE00, 0xFE10)  # of a sign, such as black or in colours


def as_seen(label: str) -> str:
    """What is left of a label for a reader who minds neither case nor the number of spaces; equal for names that look alike.

    Accents are in Unicode's composed form, NFC, and marks without width are left out, such as U+200B and U+FEFF.
    """
    visible = "".join(filter(_is_seen, label))
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", visible).casefold()).split())


def _is_seen(character: str) -> bool:
    code = ord(character)
    if character == _JOINER or code in _TAGS:
        return True
    return code not in _VARIANTS and unicodedata.category(character) != "Cf"


def require_distinct(first_lines: Mapping[str, int], path: pathlib.Path) -> None:
    """Checks that labels differ by what is seen.

    Args:
        first_lines: where each label stands first in a table, counted from 1.
        path: of the table.

    Raises:
        InputError: two do not; the message shows what their signs are where they look the same.
    """
    spelt: dict[str, str] = {}
    for label, line in sorted(first_lines.items(), key=lambda item: item[1]):
        twin = spelt.setdefault(as_seen(label), label)
        if twin != label:
            raise InputError(
                f"labels must differ by more than case, spaces and what is not seen. "
                f"Received: {twin!r} and {label!r} in {path}, lines {first_lines[twin]} and {line}{_difference(twin, label)}"
            )


def _difference(one: str, other: str) -> str:
    """What is another sign in each; nothing where they differ by case and spaces, which is seen."""
    if one.casefold().split() == other.casefold().split():
        return ""
    before = _shared(one, other)
    one, other = one[before:], other[before:]
    behind = _shared(one[::-1], other[::-1])
    return f" ({one[: len(one) - behind]!a} against {other[: len(other) - behind]!a})"


def _shared(one: str, other: str) -> int:
    """How many signs both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((count for count, (ours, theirs) in pairs if ours != theirs), min(len(one), len(other)))
