"""The pieces of a self-contained HTML page: sections, tables, pictures as data URIs, and the one style sheet."""

import base64
import html
from collections.abc import Sequence

STYLE = """
:root { --ink: #1d2530; --soft: #5b6675; --line: #dfe3e8; --paper: #fbfaf8; --card: #ffffff; --accent: #0072b2; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; color-scheme: light; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: clamp(1.6rem, 4.5vw, 2.3rem); line-height: 1.2; letter-spacing: -.015em; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 3rem 0 .6rem; padding-top: 1.1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
p.lead { font-size: 1.12rem; }
p.note, figcaption { color: var(--soft); font-size: .88rem; line-height: 1.45; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: .8rem; margin: 1.4rem 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.65rem; line-height: 1.2; font-variant-numeric: tabular-nums; font-weight: 650; }
.tile span { color: var(--soft); font-size: .86rem; line-height: 1.35; display: block; }
/* A shadow at the right edge while there is more to see. */
.scroll { overflow-x: auto; background:
  linear-gradient(to left, var(--paper) 40%, rgb(251 250 248 / 0)) right / 2.4rem 100% no-repeat local,
  linear-gradient(to left, rgb(29 37 48 / .22), rgb(29 37 48 / 0)) right / .7rem 100% no-repeat scroll; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; font-size: .93rem; }
figure.table { margin: 1rem 0; min-width: 0; } figure.table figcaption { max-width: 46rem; margin-top: .5rem; }
th, td { padding: .34rem .8rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); font-size: .84rem; vertical-align: bottom; white-space: normal; }
thead tr:last-child th { border-bottom: 1.5px solid var(--ink); }
th.text, td.text { text-align: left; }
th.group { text-align: center; color: var(--ink); }
td:first-child, th:first-child { padding-left: 0; position: sticky; left: 0; background: var(--paper); background-clip: padding-box; }
td.best { font-weight: 700; }
table.settings td { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
figure { margin: 0; }
figure img { display: block; max-width: 100%; height: auto; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 1.2rem; margin: 1rem 0; }
.plots.large { grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.plots.large figure { max-width: 620px; }
.plots figure, .wide, .example { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem .9rem; }
.plots figcaption, .wide figcaption, .example figcaption { margin-top: .5rem; }
.wide { max-width: 600px; margin: 1rem 0; }
.split { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 1rem 2rem; align-items: start; }
.beside { display: flex; flex-wrap: wrap; gap: .5rem 2rem; align-items: flex-start; }
.beside > div { flex: 1 1 600px; min-width: 0; max-width: 100%; } .beside > figure { flex: 1 1 340px; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.3rem; font-size: .88rem; margin: .7rem 0; }
.legend span::before { content: ""; display: inline-block; width: 1.1em; height: .75em; margin-right: .45em; }
.legend .dark::before { background: #3d4754; } .legend .orange::before { background: #e69f00; }
.legend .blue::before { background: #0072b2; }
.legend .hatched::before { border: 1px solid #5b6675; background: repeating-linear-gradient(135deg, #5b6675 0 1px, #fff 1px 4px); }
.legend .dotted::before { height: 0; border-top: 2px dotted #d55e00; vertical-align: middle; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr)); gap: 1rem; }
.examples.narrow { grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)); }
.example { display: grid; grid-template-columns: minmax(72px, 1fr) 3fr; gap: .7rem; align-items: center; }
.example img.scene { width: 100%; image-rendering: pixelated; border-radius: 4px; }
.example img.photo { image-rendering: auto; } .example:has(img.photo) { grid-template-columns: 2fr 3fr; }
.example.bars { grid-template-columns: 1fr; }
.example figcaption { grid-column: 1 / -1; margin-top: 0; }
figure.neighbours { margin: .8rem 0 1.2rem; } figure.neighbours figcaption { margin-top: .35rem; }
.strip { display: grid; grid-template-columns: repeat(8, minmax(84px, 1fr)); gap: .5rem; overflow-x: auto; }
.strip.wrapped { grid-template-columns: repeat(auto-fill, minmax(100px, 1fr)); }
.strip > div { border: 3px solid transparent; border-radius: 8px; background: var(--card); padding: .3rem;
  font-size: .74rem; line-height: 1.3; }
.strip img { width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 3px; image-rendering: pixelated; }
.strip img.photo { image-rendering: auto; }
.strip .words { display: block; margin-top: .25rem; overflow-wrap: anywhere; color: var(--soft); }
.strip .query { border-color: var(--ink); } .strip .same { border-color: #009e73; }
.strip .shared { border-color: #e69f00; border-style: dashed; } .strip .nothing { border-color: var(--line); }
.legend .query::before { border: 2px solid var(--ink); } .legend .same::before { border: 2px solid #009e73; }
.legend .shared::before { border: 2px dashed #e69f00; } .legend .nothing::before { border: 2px solid var(--line); }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--accent); }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .85rem; }
@media (max-width: 600px) { main { padding: 1.8rem .9rem 3rem; } th, td { padding: .34rem .3rem; } table { font-size: .86rem; }
  th { font-size: .76rem; } }
@media print { h2, figure, .tile { break-inside: avoid; } body { background: #fff; } }
"""


def escape(text: object) -> str:
    """Text as it may stand in HTML, in attributes too; for what is no UTF-8 in a file's name stands a question mark."""
    return html.escape(str(text).encode(errors="replace").decode(), quote=True)


def paragraph(text: str, css_class: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(css_class)}>{escape(text)}</p>"


def image(encoded: bytes, alt: str, css_class: str = "", *, kind: str = "png") -> str:
    """A picture, PNG or JPEG, inside the page itself."""
    data = base64.b64encode(encoded).decode("ascii")
    return f'<img{_class(css_class)} src="data:image/{kind};base64,{data}" alt="{escape(alt)}">'


def figure(pictures: str, caption: str, css_class: str = "") -> str:
    """Pictures, as `image` gives them, with the caption that says what is seen."""
    return f"<figure{_class(css_class)}>{pictures}<figcaption>{escape(caption)}</figcaption></figure>"


def block(css_class: str, parts: Sequence[str]) -> str:
    """A container of parts that are HTML already."""
    return f"<div{_class(css_class)}>{''.join(parts)}</div>"


def swatch(css_class: str, meaning: str) -> str:
    """A coloured patch and what it stands for; the patches are classes of the style sheet."""
    return f'<span class="{css_class}">{escape(meaning)}</span>'


def tile(value: str, meaning: str) -> str:
    """One number that is worth a large font."""
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(meaning)}</span></div>'


def table(
    identifier: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str,
    groups: Sequence[tuple[str, int]] = (),
    bold: frozenset[tuple[int, int]] = frozenset(),
    css_class: str = "",
    text_columns: int = 1,
) -> str:
    """A table that scrolls sideways where it is wider than the screen.

    Args:
        identifier: its id in the page.
        head: headings of the columns.
        rows: cells as text; every row is as long as `head`.
        caption: what the table shows, below it.
        groups: headings above the headings, each with the number of columns that it spans.
        bold: (row, column) of the cells to set in bold.
        css_class: of the table.
        text_columns: leading columns that are words, aligned left; the others are numbers, aligned right.
    """

    def cells(tag: str, row: int, texts: Sequence[str]) -> str:
        out = []
        for column, text in enumerate(texts):
            classes = " ".join(["text"] * (column < text_columns) + ["best"] * ((row, column) in bold))
            out.append(f"<{tag}{_class(classes)}>{escape(text)}</{tag}>")
        return f"<tr>{''.join(out)}</tr>"

    group_row = "".join(f'<th class="group" colspan="{span}">{escape(name)}</th>' for name, span in groups)
    body = "".join(cells("td", number, row) for number, row in enumerate(rows))
    return (
        f'<figure class="table"><div class="scroll"><table id="{escape(identifier)}"{_class(css_class)}>'
        f"<thead>{f'<tr>{group_row}</tr>' if groups else ''}{cells('th', -1, head)}</thead><tbody>{body}</tbody></table></div>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def details(title: str, content: str) -> str:
    """Content that opens on a click."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def section(identifier: str, title: str, parts: Sequence[str]) -> str:
    """A section under a heading."""
    return f'<section id="{escape(identifier)}"><h2>{escape(title)}</h2>{"".join(parts)}</section>'


def page(title: str, parts: Sequence[str], footer: str) -> str:
    """The whole document."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + f"\n<footer>{escape(footer)}</footer>\n</main></body></html>\n"
    )


def _class(css_class: str) -> str:
    return f' class="{css_class}"' if css_class else ""
