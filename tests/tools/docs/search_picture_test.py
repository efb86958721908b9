import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from mulsupcon_tf.utils.colours import BLUE, GREY, ORANGE
from tools.docs.search_picture import draw


def pixels_of(picture, colour):
    """Number of pixels of a colour."""
    return int((np.abs(picture - 255 * np.array(to_rgb(colour))).max(axis=-1) < 4).sum())


def test_what_shares_a_digit_is_blue_and_what_does_not_is_grey(tmp_path):
    scenes = np.zeros((4, 8, 8, 1), np.uint8)
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1]], bool)
    counts = {}
    for name, nearest in {"both": [1, 3], "one": [1, 2], "none": [2, 2]}.items():
        draw(tmp_path / f"{name}.png", scenes, labels, np.array([0]), np.array([nearest]))
        picture = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"), float)
        counts[name] = {colour: pixels_of(picture, colour) for colour in (ORANGE, BLUE, GREY)}
    assert counts["both"][BLUE] > counts["one"][BLUE] > counts["none"][BLUE] == 0
    assert counts["none"][GREY] > counts["one"][GREY] > counts["both"][GREY]
    assert min(each[ORANGE] for each in counts.values()) > 0
