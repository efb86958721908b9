"""Tiny photo collections on disk, in the layout of the official archives."""

import numpy as np
import PIL.Image

from mulsupcon_tf.datasets.images.mirflickr import LABELS
from mulsupcon_tf.datasets.images.nuswide import CONCEPTS

# Concepts of each image by their index; together they show all of them, and some images show none.
NUSWIDE = {
    "Train": {
        "actor/0001_11.jpg": range(0, 81, 2),
        "actor/0002_12.jpg": [],
        "zoo/0001_13.jpg": range(1, 81, 2),
        "zoo/0002_14.jpg": [0, 80],
        "zoo/0003_15.jpg": range(81),
    },
    "Test": {"actor/0003_21.jpg": [5], "zoo/0004_22.jpg": []},
}
# Labels of im1, im2, ... by their index.
MIRFLICKR = [range(24), [], [3, 23], [0], [], range(0, 24, 2), range(1, 24, 2), [7], [1, 2, 3], [23], [4]]


def write_photo(path, number=0):
    """Writes a JPEG (or what the name's suffix says) whose colour depends on the number; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((6, 8, 3), 20 + 10 * number, np.uint8)).save(path)


def write_nuswide(folder, images="Flickr"):
    """Writes `NUSWIDE` with the backslashes and line ends of the official files."""
    (folder / "ImageList").mkdir()
    labels = folder / "Groundtruth" / "TrainTestLabels"
    labels.mkdir(parents=True)
    for part, concepts_of in NUSWIDE.items():
        lines = [name.replace("/", "\\") for name in concepts_of]
        (folder / "ImageList" / f"{part}Imagelist.txt").write_bytes("\r\n".join([*lines, ""]).encode())
        for index, concept in enumerate(CONCEPTS):
            column = ["1" if index in chosen else "0" for chosen in concepts_of.values()]
            (labels / f"Labels_{concept}_{part}.txt").write_text("\n".join([*column, ""]))
        for number, name in enumerate(concepts_of):
            write_photo(folder / images / name, number + 10 * (part == "Test"))
    return folder


def write_mirflickr(folder, images="mirflickr", annotations="annotations"):
    """Writes `MIRFLICKR`, with files beside it that are not to be read."""
    (folder / annotations).mkdir(parents=True, exist_ok=True)
    for index, label in enumerate(LABELS):
        numbers = [f"{number}\r\n" for number, chosen in enumerate(MIRFLICKR, 1) if index in chosen]
        (folder / annotations / f"{label}.txt").write_bytes("".join(numbers).encode())
    (folder / annotations / "baby_r1.txt").write_text("3\n")
    (folder / annotations / "README.txt").write_text("not a list of numbers\n")
    for number in range(1, len(MIRFLICKR) + 1):
        write_photo(folder / images / f"im{number}.jpg", number)
    return folder
