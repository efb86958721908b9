import numpy as np

from mulsupcon_tf.reporting import page as report_page
from mulsupcon_tf.reporting.figures import scene_png
from tests.helpers.html_page import Page


def test_pictures_keep_their_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    for picture in (pixels, pixels[..., :1]):
        page = Page(report_page.image(scene_png(picture), "a picture"))
        np.testing.assert_array_equal(page.images[0][1], np.broadcast_to(picture, (5, 7, 3)))


def test_table_escapes_its_cells():
    page = Page(report_page.table("t", ["a & b", "n"], [["<script>", "1"]], caption='"<i>"'))
    assert page.tables["t"] == [["a & b", "n"], ["<script>", "1"]] and page.captions == ['"<i>"']
    assert not {"script", "i"} & set(page.tags)
