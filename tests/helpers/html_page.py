"""Reads a report back: its tables, pictures and sections, by Python's own HTML parser."""

import base64
import html.parser
import io

import numpy as np
from PIL import Image

VOID_TAGS = {"meta", "img", "br", "hr", "input", "link"}


class Page(html.parser.HTMLParser):
    """A parsed page.

    Attributes:
        tables: by id, each a list of rows of cell texts; the headings are the first rows.
        bold: by table id, (first cell of the row, column) of the cells that are marked as best.
        images: alt text and decoded pixels, in order.
        sections: ids.
        captions: texts below the figures and tables.
        text: all text.
        addresses: whatever src, href and action attributes hold, pictures in the page left out.
        tags: every tag that was opened.
    """

    def __init__(self, document: str):
        super().__init__()
        self.tables, self.bold, self.images, self.sections, self.captions = {}, {}, [], [], []
        self.text, self.addresses, self.tags = "", [], []
        self._open, self._table, self._cell, self._caption = [], None, None, None
        self.feed(document)
        self.close()
        assert self._open == [], f"tags left open: {self._open}"

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID_TAGS:
            self._open.append(tag)
        for name in ("src", "href", "action"):
            if name in attributes and not (tag == "img" and attributes[name].startswith("data:")):
                self.addresses.append(attributes[name])
        if tag == "img":
            header, data = attributes["src"].split(",", 1)
            assert header == "data:image/png;base64"
            picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            assert picture.format == "PNG"
            self.images.append((attributes["alt"], np.asarray(picture.convert("RGB"))))
        elif tag == "table":
            self._table = self.tables.setdefault(attributes["id"], [])
            self._bold = self.bold.setdefault(attributes["id"], set())
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._cell = ""
            if "best" in attributes.get("class", "").split():
                self._bold.add((self._table[-1][0], len(self._table[-1])))
        elif tag == "section":
            self.sections.append(attributes["id"])
        elif tag == "figcaption":
            self._caption = ""

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes another tag"
        if tag in ("td", "th"):
            self._table[-1].append(self._cell)
            self._cell = None
        elif tag == "figcaption":
            self.captions.append(self._caption)
            self._caption = None

    def handle_data(self, data):
        if self._open and self._open[-1] == "style":
            return
        self.text += data
        if self._cell is not None:
            self._cell += data
        if self._caption is not None:
            self._caption += data

    def row(self, table: str, title: str) -> list[str]:
        """The cells after the first of the row that starts with a title."""
        (cells,) = [row[1:] for row in self.tables[table] if row[0] == title]
        return cells
