"""Cells of a table that hold several labels: what separates them, and what stands for none.

People write `sea;beach`, `sea, beach`, `sea|beach`, `sea beach`, `['sea', 'beach']`. A list that is taken for one label
trains a model of combinations, a name that is torn apart one of fragments, and neither shows. So:

- `;` separates, and so does what no name holds: `|`, a line break, a tab, the list marks of East Asian scripts.
- Brackets around texts in quotes are a list, as Python, JSON and NumPy write it; so are square brackets in every cell.
  What stands in quotes is one name, whatever it holds, unless `label_separator` divides it.
- A comma, a space, `/` and the like stand in names too (`hot dog`, `AC/DC`). Where a table looks as if one of them
  separated, it is not read: `label_separator` says that it does, or with `;` that the names are whole.
"""

import ast
import json
import logging
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from mulsupcon_tf.datasets.label_spelling import as_seen
from mulsupcon_tf.utils.errors import InputError

_WORDS = {" ": "space", "\t": "tab", "\n": "newline"}  # spaces get lost in files of flags
_USUAL = ";"
_SURE = (_USUAL, "|", "\n", "\t", "；", "、", "｜", "¦")
_POSSIBLE = (",", "，", "/", "\\", "&", "#", "+", ":", " ")  # the space last: it stands beside the others
_COMMAS = (",", "，")
_WORDS_FOR_NONE = frozenset({"nan", "none", "null", "n/a", "#n/a", "<na>"})
_NO_LABEL = _WORDS_FOR_NONE | {"", "[]", "()", "{}", "set()"}
_NONE_OF_R = "NA"  # in capitals alone: Na is an element
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
# NumPy 2 writes its texts in a list of Python as np.str_('sea'), Python 2 as u'sea'.
_FIRST_QUOTE = re.compile(r"""\s*(?:np\.str_\(|u)?['"]""")
_ITEM = re.compile(
    rf"""\s*(?:np\.str_\(({_QUOTED})\)|u?({_QUOTED})|([^\s,'"()\[\]{{}}]+))(?=[\s,]|$)\s*,?""", re.DOTALL
)

_logger = logging.getLogger("mulsupcon_tf")


def read_label_lists(cells: Sequence[str], places: Sequence[str], separator: str | None) -> list[frozenset[str]]:
    """Splits cells into labels without surrounding spaces.

    What programs write for an empty cell (`nan`, `None`, `[]`, ...) is no label; words among these are counted in a warning.

    Args:
        cells: N texts.
        places: N texts, file and line of each, for messages.
        separator: characters that are neither letters, digits nor spaces; or "space", "tab" or "newline". None: see
            the module.

    Returns:
        The labels of each of the N cells.

    Raises:
        InputError: the separator is none, or not that of the cells; they have two; a list in brackets is damaged; or
            names look like lists and no separator is given.
    """
    given = None if separator is None else _characters(separator)
    cells = [re.sub(r"\r\n?", "\n", cell) for cell in cells]
    texts, listed, quoted = _without_brackets(cells, places)
    used = None if quoted and given is None else _separator(texts, places, given)
    labels = [[part for text in each for part in _split(text, used)] for each in texts]
    _warn_of_words_for_none(labels, places)
    labels = [[label for label in each if not _is_none(label)] for each in labels]
    if given is None:
        separated = listed or (used is not None and any(used in text for each in texts for text in each))
        # A `;` in a quoted name is not asked about: it is what says that names are whole.
        suspects = (*(character for character in _SURE if quoted and character != _USUAL), *_POSSIBLE)
        _require_names(labels, places, suspects, separated=separated)
    return [frozenset(each) for each in labels]


def _characters(separator: str) -> str:
    for character, word in _WORDS.items():
        if separator == word:
            return character
    if not separator or not separator.isprintable() or any(each.isalnum() or each.isspace() for each in separator):
        raise InputError(
            "--label_separator must be a character such as ; , | / or one of the words "
            f"{', '.join(_WORDS.values())}. Received: {separator!r}"
        )
    return separator


def _shown(character: str) -> str:
    """As it is written on a command line."""
    return shlex.quote(_WORDS.get(character, character))


def _split(text: str, character: str | None) -> list[str]:
    if character is None or _is_none(text.strip()):  # n/a is not two labels
        return [text.strip()]
    parts = text.split() if character == " " else text.split(character)
    return [part.strip() for part in parts]


def _is_none(text: str) -> bool:
    return text.casefold() in _NO_LABEL or text == _NONE_OF_R


def _without_brackets(cells: Sequence[str], places: Sequence[str]) -> tuple[list[list[str]], bool, bool]:
    """The texts of each cell, one where it is not a list in brackets; whether there is a list of several; whether of quoted ones."""
    filled = [cell for cell in cells if not _is_none(cell)]
    quoted = any(_is_bracketed(cell) and _FIRST_QUOTE.match(cell, 1) for cell in filled)
    if not quoted and not (filled and all(_is_bracketed(cell) and cell[0] == "[" for cell in filled)):
        return [[cell] for cell in cells], False, False
    texts = []
    for cell, place in zip(cells, places, strict=True):
        if _is_none(cell):
            texts.append([cell])
            continue
        items = list(_items(cell[1:-1])) if quoted else cell[1:-1].split(",")
        if not _is_bracketed(cell) or None in items:
            raise InputError(
                f"where one list of labels is written ['sea', 'beach'], all must be. Received: {cell!r} in {place}"
            )
        texts.append([item for item in items if item is not None])
    return texts, quoted or any(len(each) > 1 for each in texts), quoted


def _is_bracketed(cell: str) -> bool:
    return len(cell) > 1 and _BRACKETS.get(cell[0]) == cell[-1]


def _items(inner: str) -> Iterator[str | None]:
    """The items of a list in brackets; None where it is damaged."""
    position, end = 0, len(inner.rstrip())
    while position < end:
        match = _ITEM.match(inner, position)
        if match is None:
            yield None
            return
        yield _unquoted(match[match.lastindex or 0])
        position = match.end()


def _unquoted(item: str) -> str | None:
    try:
        if item[0] == '"':
            return json.loads(item, strict=False)
        return ast.literal_eval(item) if item[0] == "'" else item
    except (ValueError, SyntaxError):  # an escape that neither JSON nor Python has
        return None


def _separator(texts: Sequence[Sequence[str]], places: Sequence[str], given: str | None) -> str:
    def first_with(character: str) -> str | None:
        return next((place for each, place in zip(texts, places, strict=True) if character in "".join(each)), None)

    if given is not None and (given == _USUAL or first_with(given)):
        return given
    found = [character for character in _SURE if first_with(character)]
    if given is not None and found:
        raise InputError(
            "--label_separator must be what separates the labels of the table. "
            f"Received: {_shown(given)}, which no cell holds; {_shown(found[0])} is in {first_with(found[0])}"
        )
    if given is not None or not found:
        return given or _USUAL
    used, *others = found
    for each, place in zip(texts, places, strict=True):
        for part in (part for text in each for part in _split(text, used)):
            both = [other for other in others if other in part]
            if both:
                raise InputError(
                    "labels must have one separator in all rows, or --label_separator must say which of several it is. "
                    f"Received: {_shown(used)} in {first_with(used)} and {_shown(both[0])} in {place}"
                )
    if used != _USUAL:
        _logger.info("labels are separated by %s, first in %s", _shown(used), first_with(used))
    return used


def _warn_of_words_for_none(labels: Sequence[Sequence[str]], places: Sequence[str]) -> None:
    words = [
        (label, place)
        for each, place in zip(labels, places, strict=True)
        for label in each
        if label.casefold() in _WORDS_FOR_NONE or label == _NONE_OF_R
    ]
    if words:
        _logger.warning("%r is read as no label: %d times, first in %s", words[0][0], len(words), words[0][1])


def _require_names(
    labels: Sequence[Sequence[str]], places: Sequence[str], suspects: Sequence[str], *, separated: bool
) -> None:
    """Checks that no label looks like a list that one of the suspects divides.

    A character is under suspicion where half of the pieces that it makes recur in other labels: names have pieces of
    their own. Of the spaces in COCO's 80 names a tenth do, in LVIS's 1,203 a third. A comma is under suspicion anyway
    where nothing else separates; a space is not where something else does.
    """
    place_of: dict[str, str] = {}
    for each, place in zip(labels, places, strict=True):
        for label in each:
            place_of.setdefault(label, place)
    first: dict[str, tuple[str, str]] = {}
    for label, place in place_of.items():
        first.setdefault(as_seen(label), (label, place))
    for character in suspects:
        if character == " " and separated:
            continue
        pieces = {label: {piece for piece in _split(label, character) if piece} for label in first}
        several = [label for label in first if len(pieces[label]) > 1]
        uses = Counter(piece for each in pieces.values() for piece in each)
        recurring = [uses[piece] > 1 for piece in set().union(*(pieces[label] for label in several))]
        if several and (2 * sum(recurring) >= len(recurring) or (character in _COMMAS and not separated)):
            label, place = first[several[0]]
            raise InputError(
                "labels must be separated by ';' or by what --label_separator says. "
                f"Received: {label!r} in {place}; --label_separator={_shown(character)} would split "
                f"it and make {len(uses)} labels of {len(first)}, --label_separator=';' would keep it whole"
            )


def partial_labels(values: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Labels as `Split` has them: `[N, C]` uint8, or float32 with NaN where some are unknown.

    Args:
        values: `[N, C]`, 0 or 1 where known.
        unknown: `[N, C]` bool.
    """
    return np.where(unknown, np.nan, values).astype(np.float32) if unknown.any() else values.astype(np.uint8)
