"""The fonts of a report's figures: matplotlib's own, and behind it what the machine has of other scripts."""

import functools
from collections.abc import Iterable

from matplotlib import font_manager

_OWN = "DejaVu Sans"
# Of Chinese, Japanese and Korean, as Linux, macOS and Windows bring them.
_OF_OTHER_SCRIPTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "WenQuanYi Zen Hei",
    "IPAexGothic",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Arial Unicode MS",
)


@functools.cache
def families() -> list[str]:
    """Names of fonts; what the first has no letter for is drawn in the next."""
    installed = set(font_manager.get_font_names())
    return [_OWN, *(name for name in _OF_OTHER_SCRIPTS if name in installed)]


def letters_without_font(texts: Iterable[str]) -> list[str]:
    """The letters for which none of `families` has a form, in order; figures show a box in their place."""
    fonts = [font_manager.get_font(font_manager.findfont(name)) for name in families()]
    known = set().union(*(font.get_charmap() for font in fonts))
    return sorted({letter for text in texts for letter in text if ord(letter) not in known})
