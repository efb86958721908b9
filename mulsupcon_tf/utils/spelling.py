"""What somebody who mistyped a name may have meant."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the one of the non-empty `known` that looks most like `name`, whatever letters are capitals."""
    by_look = {each.casefold(): each for each in known}
    return by_look[difflib.get_close_matches(name.casefold(), by_look, n=1, cutoff=0.0)[0]]
