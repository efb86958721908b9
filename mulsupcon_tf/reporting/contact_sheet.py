"""What a search has found, as one self-contained HTML page: each query beside its nearest."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mulsupcon_tf.reporting import page
from mulsupcon_tf.reporting.thumbnails import picture_of
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.wording import counted


def write_sheet(records: Sequence[Mapping[str, Any]], output: str | os.PathLike[str]) -> None:
    """Writes the page, whole or not at all.

    Args:
        records: of `searching.Search.records`, at least one.
        output: HTML file.
    """
    path = pathlib.Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write_text(path, sheet(records))


def sheet(records: Sequence[Mapping[str, Any]]) -> str:
    """The text of the page."""
    explained = page.block(
        "legend", [page.swatch("query", "the query"), page.swatch("nothing", "found, the nearest first")]
    )
    intro = page.paragraph(
        "Below each picture stand its name and the cosine of what stands for it and for the query.", "note"
    )
    shown: dict[str, str] = {}
    strips = [_strip(record, shown) for record in records]
    title = f"Nearest to {counted(len(records), 'query', 'queries')}"
    return page.page(title, [intro, explained, *strips], "Made by mulsupcon_tf.search")


def _strip(record: Mapping[str, Any], shown: dict[str, str]) -> str:
    tiles = [_tile(record, "query", _name_of(record), shown)]
    for found in record["nearest"]:
        tiles.append(_tile(found, "nothing", f"{_name_of(found)}, {found['similarity']:.3f}", shown))
    return page.figure(page.block("strip wrapped", tiles), str(record["file"]), "neighbours")


def _name_of(key: Mapping[str, Any]) -> str:
    name = pathlib.PurePath(key["file"]).name
    return f"{name}, row {key['row']}" if "row" in key else name


def _tile(key: Mapping[str, Any], css_class: str, words: str, shown: dict[str, str]) -> str:
    file = key["file"]
    if file not in shown:
        shown[file] = picture_of(file)
    return f'<div class="{css_class}">{shown[file]}<span class="words">{page.escape(words)}</span></div>'
