"""What the page of `app` shows, and once the page itself in a browser, where gradio and Chromium are installed."""

import re
import shutil
import socket
import subprocess
import unittest.mock

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mulsupcon_tf.reporting import app_page
from mulsupcon_tf.serving.served_model import ServedModel
from tests.helpers.tiny_datasets import tiny_images

NAMES = ("red", "green", "<blue>", "bright")


def serve(image_bytes):
    """What a SavedModel does with photos, without one: the probabilities follow from their first pixel."""
    if not image_bytes.numpy()[0].startswith(b"\x89PNG"):
        raise tf.errors.InvalidArgumentError(None, None, "assertion failed: [an image must be PNG, not] [another kind]")
    shares = [tf.cast(tf.io.decode_png(each)[0, 0], tf.float32) / 255 for each in image_bytes]
    return {"probabilities": tf.stack([tf.concat([share, [0.4]], 0) for share in shares])}


def model_of(thresholds):
    return ServedModel("models/x", NAMES, {"example_f1": np.float32(thresholds)}, None, serve)


def rows_of(page):
    """(name, is given, width of the bar, place of the threshold, words) of each row."""
    pattern = (
        r'<div class="name( given)?">(.*?)</div><div class="bar"><div class="fill" style="width:([\d.]+)%"></div>'
        r'<div class="threshold" style="left:([\d.]+)%"></div></div><div class="value">(.*?)</div>'
    )
    return [
        (name, bool(given), float(width), float(left), words)
        for given, name, width, left, words in re.findall(pattern, page)
    ]


def test_labels_are_bars_with_their_thresholds_the_most_probable_first():
    page = app_page.label_bars(model_of(0.5), np.float32([0.25, 0.9, 0.6, 0.5]))
    assert rows_of(page) == [
        ("green", True, 90.0, 50.0, "90.0 %"),
        ("&lt;blue&gt;", True, 60.0, 50.0, "60.0 %"),
        ("bright", False, 50.0, 50.0, "50.0 %"),
        ("red", False, 25.0, 50.0, "25.0 %"),
    ]
    # How it was chosen, on validation, on test or beforehand, is not stored with the model.
    assert page.endswith('<div class="explained">Bold: above the model&#x27;s threshold, the orange mark.</div>')


def test_each_label_may_have_its_own_threshold():
    page = app_page.label_bars(model_of([0.1, 0.95, 0.5, 0.5]), np.float32([0.25, 0.9, 0.6, 0.2]))
    assert [(name, given, left) for name, given, _, left, _ in rows_of(page)] == [
        ("green", False, 95.0),
        ("&lt;blue&gt;", True, 50.0),
        ("red", True, 10.0),
        ("bright", False, 50.0),
    ]


def test_of_many_labels_the_most_probable_are_shown(monkeypatch):
    monkeypatch.setattr(app_page, "MOST_LABELS", 3)
    page = app_page.label_bars(model_of(0.5), np.float32([0.25, 0.9, 0.6, 0.5]))
    assert len(rows_of(page)) == 3 and "1 less probable labels are left out" in page


def test_what_was_found_stands_with_its_picture_and_cosine(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a&b.png")
    page = app_page.found_tiles(
        [{"file": str(tmp_path / "a&b.png"), "similarity": 0.98765}, {"file": "gone.jpg", "similarity": -0.5}]
    )
    assert page.count("<img") == 1
    assert re.findall(r"<span>(.*?)</span>", page) == ["a&amp;b.png, 0.988", "gone.jpg, -0.500"]


def test_examples_are_spread_over_the_gallery():
    files = [f"{number}.jpg" for number in range(100)]
    chosen = app_page.example_files(files)
    assert chosen[0] == "0.jpg" and chosen[-1] == "99.jpg" and len(chosen) == app_page.EXAMPLES
    assert app_page.example_files(files[:3]) == files[:3]
    assert app_page.example_files([]) == []


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, pixels in enumerate(tiny_images().splits["test"].inputs[:3]):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return [str(path) for path in sorted(folder.iterdir())]


def test_a_photo_is_answered_with_and_without_a_gallery(photos, tmp_path):
    model = model_of(0.5)

    def find(file):
        return [{"file": photos[1], "similarity": 0.25}] if file == photos[0] else []

    labels, found = app_page.answer(model, find, photos[0])
    expected = np.float32([*tiny_images().splits["test"].inputs[0][0, 0] / 255, 0.4])
    assert labels == app_page.label_bars(model, expected)
    assert found == app_page.found_tiles([{"file": photos[1], "similarity": 0.25}])
    assert app_page.answer(model, None, photos[0]) == (labels, "")
    assert app_page.answer(model, find, None) == ("", "")
    (tmp_path / "bad.png").write_bytes(b"no image")
    said, found = app_page.answer(model, find, str(tmp_path / "bad.png"))
    assert "must be a whole JPEG" in said and "another kind" in said and found == ""


def test_the_model_sees_the_bytes_of_a_photo_whatever_its_mode(monkeypatch):
    """gradio would write grey JPEGs anew, with loss, and 16 bits as white."""
    gradio = unittest.mock.MagicMock()
    monkeypatch.setattr(app_page, "require_gradio", lambda: gradio)
    app_page.build_page(model_of(0.5), None, [])
    assert {"type": "filepath", "image_mode": None}.items() <= gradio.Image.call_args.kwargs.items()


@pytest.mark.slow
def test_the_page_answers_in_a_browser(photos, monkeypatch):
    """An example is clicked on; then its labels and what was found stand in the page, and nothing came from elsewhere."""
    gradio = pytest.importorskip("gradio")
    chromium = shutil.which("chromium") or pytest.skip("no Chromium")
    model = model_of(0.5)
    page = app_page.build_page(model, lambda file: [{"file": photos[1], "similarity": 0.25}], photos)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = (
        "<script>const timer = setInterval(() => { const example = document.querySelector('.gallery-item');"
        "if (example) { example.click(); clearInterval(timer); } }, 300)</script>"
    )
    launch, given = gradio.Blocks.launch, {}

    def launch_with_a_click(self, **settings):
        given.update(settings)
        return launch(self, **settings, head=script)

    monkeypatch.setattr(gradio.Blocks, "launch", launch_with_a_click)
    monkeypatch.setattr(gradio.Blocks, "block_thread", lambda self: None)
    app_page.serve(page, "127.0.0.1", port)
    try:
        assert given["server_name"] == "127.0.0.1" and given["share"] is False
        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        flags += " --disable-component-update --disable-sync --virtual-time-budget=60000 --dump-dom"
        command = [chromium, *flags.split(), f"http://127.0.0.1:{port}/"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    finally:
        page.close()
    names = re.findall(r'class="name(?: given)?"[^>]*>(.*?)</div>', shown)
    assert names == [name for name, *_ in rows_of(app_page.answer(model, None, photos[0])[0])]
    assert re.search(r"<span[^>]*>1\.png, 0\.250</span>", shown)
