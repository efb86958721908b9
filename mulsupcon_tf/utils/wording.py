"""Numbers in sentences, and what somebody who mistyped a name may have meant."""

import difflib
from collections.abc import Iterable


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 epoch`, `2 epochs`; the plural is the noun and an s, where no other is given."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def points(difference: float) -> str:
    """A difference of two shares in points of percent with its sign, `−1.2`; one that is rounded to zero has none."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def in_bytes(count: float) -> str:
    """So many bytes in the largest unit of which there is one, `1.5 GiB`; less than a KiB as `0.3 KiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 2**10:.1f} KiB"


def in_time(seconds: float) -> str:
    """So many seconds, minutes or hours, as one would say it."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the one of the non-empty `known` that looks most like `name`, whatever letters are capitals."""
    by_look = {each.casefold(): each for each in known}
    return by_look[difflib.get_close_matches(name.casefold(), by_look, n=1, cutoff=0.0)[0]]
