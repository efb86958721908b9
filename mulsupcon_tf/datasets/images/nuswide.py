r"""NUS-WIDE [1]: 269,648 photos from Flickr with 81 concepts, or with the 21 most frequent of them.

`--dataset=nuswide --data_dir=DIR`: DIR holds the official folders, as their archives unpack:

    ImageList/TrainImagelist.txt, TestImagelist.txt      one image a line, `actor\0001_2124494179.jpg`
    Groundtruth/TrainTestLabels/Labels_<concept>_{Train,Test}.txt       0 or 1 a line, in the order of the image list
    Flickr/actor/0001_2124494179.jpg ...                 the images; the folder may be called `images` too

Train and test are the official ones, 161,789 and 107,859 images; about 20% of train become the validation split, by a
hash of the file's name. Images that show none of the 81 concepts, more than a fifth, stay in as negatives, and are
counted; papers that leave them out, or draw a split of their own, have other scores. `--dataset=nuswide21` has the
labels of the 21 concepts that most of the training images show, as many papers do, and all images.

Some photos have gone from Flickr, so that many copies are incomplete. A listed image that is absent is an error which
says how many are. To go on without them, name them in `DIR/absent_images.txt`, one a line and written as in the image
lists: they are left out of their split, with a warning that counts them, and the file keeps on record which they were.

[1] Chua et al., "NUS-WIDE: A Real-World Web Image Database from National University of Singapore", CIVR 2009,
    https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html
"""

import logging
import pathlib

import numpy as np

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import existing_folder, missing_files, path_inside
from mulsupcon_tf.datasets.splitting import finish_dataset
from mulsupcon_tf.utils.atomic_file import regular_file
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import nearest

# In the order of the official Concepts81.txt, which is the alphabet's.
CONCEPTS = (
    "airport", "animal", "beach", "bear", "birds", "boats", "book", "bridge", "buildings", "cars", "castle", "cat",
    "cityscape", "clouds", "computer", "coral", "cow", "dancing", "dog", "earthquake", "elk", "fire", "fish", "flags",
    "flowers", "food", "fox", "frost", "garden", "glacier", "grass", "harbor", "horses", "house", "lake", "leaf", "map",
    "military", "moon", "mountain", "nighttime", "ocean", "person", "plane", "plants", "police", "protest", "railroad",
    "rainbow", "reflection", "road", "rocks", "running", "sand", "sign", "sky", "snow", "soccer", "sports", "statue",
    "street", "sun", "sunset", "surf", "swimmers", "tattoo", "temple", "tiger", "tower", "town", "toy", "train", "tree",
    "valley", "vehicle", "water", "waterfall", "wedding", "whales", "window", "zebra",
)  # fmt: skip
_ABSENT = "absent_images.txt"
_MOST_FREQUENT = 21
_logger = logging.getLogger("mulsupcon_tf")


def load_nuswide(name: str, data_dir: str | None, seed: int) -> MultiLabelDataset:
    """Loads `--dataset=nuswide` or `nuswide21`; the images stay on disk.

    Args:
        name: "nuswide", or "nuswide21" for the most frequent concepts only.
        data_dir: the folder above `ImageList`, `Groundtruth` and the images.
        seed: of the 20% of train that become validation.

    Raises:
        InputError: there is no such folder, or see `read_parts`.
    """
    parts = read_parts(existing_folder(data_dir, name))
    concepts: tuple[str, ...] = CONCEPTS
    if name == "nuswide21":
        counts = parts["train"].labels.sum(axis=0, dtype=np.int64)
        kept = np.sort(np.argsort(-counts, kind="stable")[:_MOST_FREQUENT])
        concepts = tuple(CONCEPTS[column] for column in kept)
        parts = {part: Split(split.inputs, split.labels[:, kept]) for part, split in parts.items()}
    return finish_dataset(name, "image", concepts, parts, seed)


def read_parts(folder: pathlib.Path) -> dict[str, Split]:
    """Reads the official "train" and "test" part, in the order of their image lists.

    Raises:
        InputError: a file or folder is missing, a list of labels does not fit its image list or holds another value
            than 0 and 1, or images are absent that `absent_images.txt` does not name.
    """
    images = next((folder / each for each in ("Flickr", "images") if (folder / each).is_dir()), None)
    if images is None:
        raise InputError(f"--data_dir must hold the images of NUS-WIDE in Flickr or images. Received: none in {folder}")
    listed = {part: _image_list(folder / "ImageList" / f"{part.title()}Imagelist.txt") for part in ("train", "test")}
    absent = _absent_images(folder / _ABSENT, {image for names in listed.values() for image in names})
    paths = {
        image: path_inside(images, image, f"the image lists of {folder}")
        for names in listed.values()
        for image in names
    }
    _require_images([path for image, path in paths.items() if image not in absent], folder)
    parts = {}
    for part, names in listed.items():
        kept = np.array([image not in absent for image in names], bool)
        files = ImageFiles(np.array([str(paths[image]) for image in names], object)[kept], folder=str(images))
        labels = _label_columns(folder / "Groundtruth" / "TrainTestLabels", part.title(), len(names))[kept]
        parts[part] = Split(files, labels)
    return parts


def _image_list(path: pathlib.Path) -> list[str]:
    lines = [line.strip().replace("\\", "/") for line in _text(path).splitlines()]
    return [line for line in lines if line]


def _absent_images(path: pathlib.Path, listed: set[str]) -> set[str]:
    if not path.exists():
        return set()
    names = _image_list(path)
    for name in names:
        if name not in listed:
            raise InputError(
                f"{_ABSENT} must name images as the image lists do. "
                f"Received: {name!r} in {path} (nearest: {nearest(name, listed)!r})"
            )
    _logger.warning("nuswide: left out, since %s names them: %d of %d images", path, len(set(names)), len(listed))
    return set(names)


def _label_columns(folder: pathlib.Path, part: str, count: int) -> np.ndarray:
    labels = np.zeros((count, len(CONCEPTS)), np.uint8)
    for column, concept in enumerate(CONCEPTS):
        path = folder / f"Labels_{concept}_{part}.txt"
        values = _text(path).split()
        if len(values) != count:
            raise InputError(
                f"a list of labels must have one line for each of the {count} images in {part}Imagelist.txt. "
                f"Received: {len(values)} lines in {path}"
            )
        if not set(values) <= {"0", "1"}:
            line, value = next((line, value) for line, value in enumerate(values, 1) if value not in {"0", "1"})
            raise InputError(f"labels must be 0 or 1. Received: {value!r} in {path}, line {line}")
        labels[:, column] = np.array(values, "U1") == "1"
    return labels


def _require_images(paths: list[pathlib.Path], folder: pathlib.Path) -> None:
    missing = missing_files(ImageFiles(np.array([str(path) for path in paths], object)))
    if missing:
        raise InputError(
            f"every listed image must exist, or be named in {folder / _ABSENT}, one a line as in the image lists. "
            f"Received: {len(missing)} of {len(paths)} absent, the first {paths[missing[0]]}"
        )


def _text(path: pathlib.Path) -> str:
    try:
        return regular_file(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise InputError(f"--data_dir must hold NUS-WIDE's official text files. Received: {path} ({reason})") from None
