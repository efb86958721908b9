"""MIRFLICKR-25k [1]: 25,000 photos from Flickr with 24 labels.

`--dataset=mirflickr --data_dir=DIR`: what the two official archives, mirflickr25k.zip and
mirflickr25k_annotations_v080.zip, unpack to:

    im1.jpg ... im25000.jpg       in DIR, DIR/mirflickr or DIR/images
    animals.txt ... water.txt     one image number a line; in `annotations`, `annotations_v080` or
                                  `mirflickr25k_annotations_v080` below DIR or below the folder of the images, or in DIR

Labels are the 24 *potential* ones, an image whose topic is visible at all. The 14 *relevant* ones (`<label>_r1.txt`,
the topic is salient) are left out: each is a subset of its potential twin, so that with both, the "38 labels" of some
papers, a salient topic would count twice among an image's labels. Images without a label stay in as negatives, and
are counted.

The archives hold no split, and no source that lists one image by image was found: this one is our own. Of every five
consecutive images the first three are train and the last two test: 15,000 and 10,000, the sizes of ImageCLEF's photo
annotation task of 2012 [2]. Numbers of papers, which mostly draw at random, are not comparable exactly. About 20% of
train become the validation split, by a hash of the file's name. A missing image is an error: the archive is complete.

[1] Huiskes and Lew, "The MIR Flickr Retrieval Evaluation", MIR 2008, https://press.liacs.nl/mirflickr/
[2] As described by Chien et al., "KIDS-NUTN at ImageCLEF 2012 Photo Annotation and Retrieval Task", CEUR-WS volume 1178
"""

import pathlib
import re

import numpy as np

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import existing_folder, require_existing
from mulsupcon_tf.datasets.splitting import finish_dataset
from mulsupcon_tf.utils.atomic_file import regular_file
from mulsupcon_tf.utils.errors import InputError

LABELS = (
    "animals", "baby", "bird", "car", "clouds", "dog", "female", "flower", "food", "indoor", "lake", "male", "night",
    "people", "plant_life", "portrait", "river", "sea", "sky", "structures", "sunset", "transport", "tree", "water",
)  # fmt: skip
_IMAGE_FOLDERS = (".", "mirflickr", "images")
_LABEL_FOLDERS = ("annotations", "annotations_v080", "mirflickr25k_annotations_v080", ".")
_IMAGE = re.compile(r"im([1-9][0-9]{0,5})\.jpg")


def load_mirflickr(name: str, data_dir: str | None, seed: int) -> MultiLabelDataset:
    """Loads `--dataset=mirflickr`; the images stay on disk.

    Args:
        name: "mirflickr".
        data_dir: the folder of the unpacked archives.
        seed: of the 20% of train that become validation.

    Raises:
        InputError: there is no such folder, or see `read_parts`.
    """
    return finish_dataset(name, "image", LABELS, read_parts(existing_folder(data_dir, name)), seed)


def read_parts(folder: pathlib.Path) -> dict[str, Split]:
    """Reads the "train" and "test" part, in the order of the image numbers.

    Raises:
        InputError: there are no images or no labels, or an image or a list of labels is missing, or such a list holds
            something else than image numbers.
    """
    images, count = _find_images(folder)
    positives = _read_positives(folder, images, count)
    files = ImageFiles.below(images, (f"im{number}.jpg" for number in range(1, count + 1)))
    require_existing(files, "MIRFLICKR, whose images are numbered without a gap")
    labels = np.zeros((count, len(LABELS)), np.uint8)
    for column, label in enumerate(LABELS):
        labels[np.array(positives[label], int) - 1, column] = 1
    train = np.arange(count) % 5 < 3
    return {"train": Split(files[train], labels[train]), "test": Split(files[~train], labels[~train])}


def _find_images(folder: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Returns the folder of the images, and the largest image number in it."""
    for candidate in (folder / each for each in _IMAGE_FOLDERS):
        if candidate.is_dir():
            matches = [_IMAGE.fullmatch(path.name) for path in candidate.iterdir()]
            numbers = [int(match[1]) for match in matches if match]
            if numbers:
                return candidate, max(numbers)
    raise InputError(
        f"--data_dir must hold im1.jpg, im2.jpg, ... itself or in mirflickr or images. Received: none in {folder}"
    )


def _read_positives(folder: pathlib.Path, images: pathlib.Path, count: int) -> dict[str, list[int]]:
    candidates = [place / each for place in dict.fromkeys((folder, images)) for each in _LABEL_FOLDERS]
    place = next((place for place in candidates if (place / f"{LABELS[0]}.txt").is_file()), None)
    if place is None:
        raise InputError(
            f"--data_dir must hold MIRFLICKR's labels, {LABELS[0]}.txt to {LABELS[-1]}.txt, in a folder annotations "
            f"or {_LABEL_FOLDERS[2]}. Received: none below {folder}"
        )
    return {label: _image_numbers(place / f"{label}.txt", images, count) for label in LABELS}


def _image_numbers(path: pathlib.Path, images: pathlib.Path, count: int) -> list[int]:
    try:
        lines = regular_file(path).read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            f"each of MIRFLICKR's {len(LABELS)} labels must have its file. Received: {path} ({error.strerror})"
        ) from None
    numbers = []
    for line, content in enumerate(lines, 1):
        word = content.strip()
        if not word:
            continue
        if not re.fullmatch(rb"[1-9][0-9]{0,5}", word):
            raise InputError(
                f"a list of images must hold one image number a line. "
                f"Received: {word[:40].decode(errors='replace')!r} in {path}, line {line}"
            )
        numbers.append(int(word))
        if numbers[-1] > count:
            raise InputError(
                f"every image that is listed must be an existing file. "
                f"Received: im{numbers[-1]}.jpg missing in {images}, listed in {path}, line {line}"
            )
    return numbers
