import pathlib
import unicodedata

import pytest

from mulsupcon_tf.datasets.label_spelling import as_seen, require_distinct
from mulsupcon_tf.utils.errors import InputError

PATH = pathlib.Path("t.csv")
RULE = "labels must differ by more than case, spaces and what is not seen. Received: "
NFD = unicodedata.normalize("NFD", "café")


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ("Beach", "beach", "'Beach' and 'beach' in t.csv, lines 2 and 5"),
        ("hot  dog", "hot dog", "'hot  dog' and 'hot dog' in t.csv, lines 2 and 5"),
        ("café", NFD, f"'café' and '{NFD}' in t.csv, lines 2 and 5 ('\\xe9' against 'e\\u0301')"),
        (NFD, "CAFÉ", f"'{NFD}' and 'CAFÉ' in t.csv, lines 2 and 5 ('cafe\\u0301' against 'CAF\\xc9')"),
        ("sea", "sea\u200b", "'sea' and 'sea\\u200b' in t.csv, lines 2 and 5 ('' against '\\u200b')"),
        ("\ufeffsea", "sea", "'\\ufeffsea' and 'sea' in t.csv, lines 2 and 5 ('\\ufeff' against '')"),
        ("se\u00ada", "sea", "'se\\xada' and 'sea' in t.csv, lines 2 and 5 ('\\xad' against '')"),
        ("☀", "☀\ufe0f", "'☀' and '☀\ufe0f' in t.csv, lines 2 and 5 ('' against '\\ufe0f')"),
        ("a\u200b b", "a\u200b  b", "'a\\u200b b' and 'a\\u200b  b' in t.csv, lines 2 and 5"),
    ],
)
def test_names_that_look_alike_are_refused_with_what_tells_them_apart(one, other, shown):
    with pytest.raises(InputError) as caught:
        require_distinct({"sky": 1, one: 2, other: 5}, PATH)
    assert str(caught.value) == RULE + shown


def test_names_that_look_different_are_distinct():
    emojis = ("👩\u200d🚀", "👩🚀", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "🏴")
    names = ("cafe", "café", "sea", "seas", "se a", "ß", *emojis)
    assert len({as_seen(name) for name in names}) == len(names)
    require_distinct(dict.fromkeys(names, 1), PATH)


@pytest.mark.parametrize("nothing", ["", " ", "\u200b", "\ufeff \u200b"])
def test_nothing_is_seen_of_spaces_and_marks_without_width(nothing):
    assert as_seen(nothing) == ""
