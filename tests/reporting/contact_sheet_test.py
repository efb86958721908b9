"""The page of a search, read back by Python's own parser of HTML."""

import base64
import html.parser
import io
import os

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest

from mulsupcon_tf.reporting.contact_sheet import sheet
from mulsupcon_tf.reporting.thumbnails import SIDE


class Tiles(html.parser.HTMLParser):
    """Pictures with their texts, and the words below them, in order."""

    def __init__(self, document):
        super().__init__()
        self.pictures, self.words, self._in_words = [], [], False
        self.feed(document)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "img":
            data = attributes["src"].removeprefix("data:image/jpeg;base64,")
            self.pictures.append((attributes["alt"], PIL.Image.open(io.BytesIO(base64.b64decode(data, validate=True)))))
        self._in_words = attributes.get("class") == "words"

    def handle_data(self, data):
        if self._in_words:
            self.words.append(data)

    def handle_endtag(self, tag):
        self._in_words = False


@pytest.fixture
def photos(tmp_path):
    """A wide red one, a green one that a camera has laid on its side, a blue one whose name is HTML."""
    for name, colour in (("a.png", (200, 0, 0)), ("b.jpg", (0, 200, 0)), ("<b>.png", (0, 0, 200))):
        picture = PIL.Image.fromarray(np.full((100, 400, 3), colour, np.uint8))
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        picture.save(tmp_path / name, **({"exif": exif} if name == "b.jpg" else {}))
    return [str(tmp_path / name) for name in ("a.png", "b.jpg", "<b>.png")]


def test_each_query_stands_before_what_was_found(photos):
    a, b, c = photos
    records = [
        {"file": a, "nearest": [{"file": b, "similarity": 0.98765}, {"file": c, "similarity": -0.5}]},
        {"file": c, "nearest": [{"file": a, "similarity": 1.0}]},
    ]
    page = Tiles(sheet(records))
    assert page.words == ["a.png", "b.jpg, 0.988", "<b>.png, -0.500", "<b>.png", "a.png, 1.000"]
    assert [alt for alt, _ in page.pictures] == ["a.png", "b.jpg", "<b>.png", "<b>.png", "a.png"]
    sizes = [picture.size for _, picture in page.pictures]
    assert sizes[0] == (SIDE, SIDE // 4) and sizes[1] == (SIDE // 4, SIDE)
    for number, channel in enumerate((0, 1, 2, 2, 0)):
        assert np.asarray(page.pictures[number][1]).mean(axis=(0, 1)).argmax() == channel


def test_rows_of_vectors_and_files_that_are_gone_have_no_picture(photos, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    records = [
        {"file": "rows.npy", "row": 3, "nearest": [{"file": "rows.npy", "row": 0, "similarity": 0.5}]},
        {"file": photos[0], "nearest": [{"file": str(tmp_path / "gone.jpg"), "similarity": 0.1}]},
        {"file": str(broken), "nearest": []},
    ]
    page = Tiles(sheet(records))
    assert page.words == ["rows.npy, row 3", "rows.npy, row 0, 0.500", "a.png", "gone.jpg, 0.100", "broken.jpg"]
    assert [alt for alt, _ in page.pictures] == ["a.png"]


def test_sixteen_bits_of_grey_are_no_white(tmp_path):
    """The model sees the upper eight of them."""
    pixels = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    PIL.Image.fromarray(pixels.astype(np.uint16)).save(tmp_path / "deep.png")
    ((_, picture),) = Tiles(sheet([{"file": str(tmp_path / "deep.png"), "nearest": []}])).pictures
    assert np.abs(np.asarray(picture.convert("L"), float) - pixels / 256).max() < 4


def test_a_name_that_is_no_utf_8_is_shown_with_question_marks(tmp_path):
    file = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    PIL.Image.new("RGB", (8, 8)).save(file)
    page = Tiles(sheet([{"file": file, "nearest": []}]).encode().decode())
    assert page.words == ["caf?.png"] and len(page.pictures) == 1


def exif_in_which(byte, damage, jpeg):
    """A JPEG in whose EXIF, of which the byte is told from its beginning, one byte is another."""
    start = jpeg.index(b"Exif\0\0") + len(b"Exif\0\0")
    return jpeg[: start + byte] + bytes([damage]) + jpeg[start + byte + 1 :]


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_photo_with_damage_where_the_model_does_not_look_has_its_picture_upright(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x010F], exif[0x0112] = "Make", 6
    encoded = io.BytesIO()
    PIL.Image.new("RGB", (64, 32), (200, 0, 0)).save(encoded, "JPEG", exif=exif)
    whole, shapes = encoded.getvalue(), {}
    for byte in range(exif.tobytes().index(b"Make")):
        for damage in (0, 5, 255):
            (tmp_path / "photo.jpg").write_bytes(exif_in_which(byte, damage, whole))
            (_, picture), *_ = Tiles(sheet([{"file": str(tmp_path / "photo.jpg"), "nearest": []}])).pictures
            shapes.setdefault(picture.size, []).append((byte, damage))
    assert set(shapes) == {(32, 64), (64, 32)} and len(shapes[32, 64]) > len(shapes[64, 32])


def test_a_photo_that_pillow_does_not_open_has_a_name_alone(tmp_path):
    long = PIL.PngImagePlugin.PngInfo()
    long.add_itxt("k", "x" * 2_000_000, zip=True)
    PIL.Image.new("RGB", (64, 32)).save(tmp_path / "long.png", pnginfo=long)
    page = Tiles(sheet([{"file": str(tmp_path / "long.png"), "nearest": []}]))
    assert page.words == ["long.png"] and not page.pictures
