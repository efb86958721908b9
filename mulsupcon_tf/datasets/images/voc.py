"""PASCAL VOC 2007 and 2012: objects of 20 classes in photos.

`--dataset=voc2007 --data_dir=DIR` (or `voc2012`): DIR is or holds `VOCdevkit/`, or is or holds `VOC2007/`, in which
are `ImageSets/Main/{train,val,test}.txt`, `Annotations/<id>.xml` and `JPEGImages/<id>.jpg`; the archives of train and
test unpack into one. Where DIR is not given or empty, or is a folder of TensorFlow Datasets, `voc/2007` is taken as that
prepared it (see `tfds_images`).

Photos of your own in this layout: DIR is the folder that holds `ImageSets/`. Their classes stand in `classes.txt` there,
one a line, or in CVAT's `labelmap.txt`; images may be `.jpeg`, `.png`, ... too, and ids may have dots and spaces.

- Splits: voc2007 has official train, validation (`val`) and test. The test labels of voc2012 are not public: its `val`
  is the test split here, and about 20% of `train` are carved off for validation by a hash of the file's name.
- A class without any object in any split is left out of the labels, with a warning; the originals have none.
- Objects marked 'difficult' are left out of the positives. An image whose objects of a class are all difficult is a
  negative of that class, where the official evaluation leaves the pair out.
- Images without a label that is left stay in: they are negatives for every class.
- There is no reference distribution.
"""

import logging
import pathlib
import re
import xml.etree.ElementTree
from typing import NoReturn

import numpy as np

from mulsupcon_tf.datasets.base import IMAGE_SUFFIXES, ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import existing_folder, listed, require_text
from mulsupcon_tf.datasets.images.tfds_images import PreparedImages, read_prepared
from mulsupcon_tf.datasets.splitting import finish_dataset
from mulsupcon_tf.utils.atomic_file import regular_file
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import nearest

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_LISTS = {
    "2007": {"train": "train", "validation": "val", "test": "test"},
    "2012": {"train": "train", "test": "val"},
}
_CLASS_LISTS = ("classes.txt", "labelmap.txt")
_DIFFICULT = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "unspecified": False}
_logger = logging.getLogger("mulsupcon_tf")


def load_voc(name: str, data_dir: str | None, seed: int) -> MultiLabelDataset:
    """Loads one year of PASCAL VOC; the module's page says what counts as a label.

    Args:
        name: "voc2007" or "voc2012".
        data_dir: folder of the VOC development kit, or of TensorFlow Datasets, or None for the latter's default folder.
        seed: of the training samples that become validation in voc2012.

    Raises:
        InputError: `data_dir` is no folder; neither the kit nor the prepared dataset is there; a list, annotation or
            image is missing or broken; an image is in two lists; an object is of no known class.
    """
    year = name.removeprefix("voc")
    folder = None if data_dir is None else existing_folder(data_dir, name)
    kit = None if folder is None else _find_year(folder, year)
    if kit is not None:
        return _finish(name, _class_names(kit), kit, year, seed)
    label_names, parts = read_prepared(name, _prepared(year), folder)
    splits = {part: Split(objects.files, objects.labels(len(label_names))) for part, objects in parts.items()}
    return finish_dataset(name, "image", label_names, splits, seed)


def read_annotation(path: pathlib.Path, classes: tuple[str, ...] = CLASSES) -> np.ndarray:
    """Reads which classes one image shows.

    Args:
        path: an XML file of the kit.
        classes: C names that an object may have.

    Returns:
        `[C]` uint8: 1 for each class with an object that is not 'difficult'.

    Raises:
        InputError: the file cannot be read, is no XML or has a document type; an object has none of the classes, or
            another mark of difficulty than yes or no.
    """
    try:
        # A document type can define entities that grow without bound; the kit has none.
        parser = xml.etree.ElementTree.XMLParser(target=_WithoutDocumentType())
        root = xml.etree.ElementTree.parse(regular_file(path), parser).getroot()
    except OSError as error:
        raise InputError(f"an annotation must be readable. Received: {path} ({error.strerror})") from None
    except (xml.etree.ElementTree.ParseError, ValueError, LookupError) as error:  # the latter two: unknown encodings
        raise InputError(f"an annotation must be XML without a document type. Received: {path} ({error})") from None
    labels = np.zeros(len(classes), np.uint8)
    for element in root.findall("object"):
        label = (element.findtext("name") or "").strip()
        if label not in classes:
            known = "classes of PASCAL VOC (others go into classes.txt)" if classes == CLASSES else "listed classes"
            raise InputError(
                f"an object must be of one of the {len(classes)} {known}. "
                f"Received: {label!r} (nearest: {nearest(label, classes)!r}) in {path}"
            )
        difficult = (element.findtext("difficult") or "").strip().lower() or "0"
        if difficult not in _DIFFICULT:
            raise InputError(f"an object must be difficult or not, 1 or 0. Received: {difficult!r} in {path}")
        if not _DIFFICULT[difficult]:
            labels[classes.index(label)] = 1
    return labels


class _WithoutDocumentType(xml.etree.ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise ValueError(f"<!DOCTYPE {name}>")


def _prepared(year: str) -> PreparedImages:
    return PreparedImages(
        dataset=f"voc/{year}",
        splits={part: "validation" if listed == "val" else listed for part, listed in _LISTS[year].items()},
        label_feature=("objects", "label"),
        objects_of=lambda sample: (sample["labels_no_difficult"], np.ones(len(sample["labels_no_difficult"]))),
        official_layout=f"VOCdevkit/VOC{year}/ with ImageSets/, Annotations/ and JPEGImages/",
    )


def _find_year(folder: pathlib.Path, year: str) -> pathlib.Path | None:
    """The folder of one year, or None where there is none."""
    places = [folder / "VOCdevkit" / f"VOC{year}", folder / f"VOC{year}"]
    if not re.fullmatch(r"VOC\d{4}", folder.name) or folder.name == f"VOC{year}":
        places.append(folder)
    return next((place for place in places if (place / "ImageSets" / "Main").is_dir()), None)


def _class_names(folder: pathlib.Path) -> tuple[str, ...]:
    """The classes that the folder lists, else those of PASCAL VOC."""
    path = next((folder / name for name in _CLASS_LISTS if (folder / name).is_file()), None)
    if path is None:
        return CLASSES
    lines = [line.strip() for line in _text_lines(path, "a list of classes")]
    names = [line for line in lines if line and not line.startswith("#")]
    if path.name == "labelmap.txt":  # name:colour:parts:actions
        names = [name.partition(":")[0].strip() for name in names]
    if not names or len(set(names)) < len(names):
        twice = next((name for name in names if names.count(name) > 1), None)
        raise InputError(
            f"a list of classes must name at least one, each once. "
            f"Received: {'none' if twice is None else f'{twice!r} twice'} in {path}"
        )
    return tuple(names)


def _finish(name: str, classes: tuple[str, ...], folder: pathlib.Path, year: str, seed: int) -> MultiLabelDataset:
    splits = _read_folder(folder, year, classes)
    used = np.any([split.labels.any(axis=0) for split in splits.values()], axis=0)
    if not used.all():
        unused = listed(classes, np.flatnonzero(~used))
        _logger.warning("%s: no object in any image, so left out of the labels: %s", name, unused)
    kept = tuple(label for label, seen in zip(classes, used, strict=True) if seen)
    parts = {part: Split(split.inputs, split.labels[:, used]) for part, split in splits.items()}
    return finish_dataset(name, "image", kept, parts, seed)


def _read_folder(folder: pathlib.Path, year: str, classes: tuple[str, ...]) -> dict[str, Split]:
    image_names = _image_names(folder / "JPEGImages")
    splits = {}
    list_of: dict[str, str] = {}
    for part, list_name in _LISTS[year].items():
        ids = _read_list(folder / "ImageSets" / "Main" / f"{list_name}.txt", folder / "Annotations")
        for image in ids:
            if list_of.setdefault(image, list_name) != list_name:
                raise InputError(
                    f"an image must be in one list. "
                    f"Received: {image!r} in {list_of[image]}.txt and {list_name}.txt of {folder / 'ImageSets' / 'Main'}"
                )
        files = ImageFiles.below(folder / "JPEGImages", (image_names.get(image, f"{image}.jpg") for image in ids))
        labels = [read_annotation(folder / "Annotations" / f"{image}.xml", classes) for image in ids]
        splits[part] = Split(files, np.stack(labels))
    return splits


def _image_names(folder: pathlib.Path) -> dict[str, str]:
    """The name of the image file of each id; of several, the suffix that stands first in `IMAGE_SUFFIXES`."""
    found: dict[str, pathlib.Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            other = found.setdefault(path.stem, path)
            if IMAGE_SUFFIXES.index(path.suffix.lower()) < IMAGE_SUFFIXES.index(other.suffix.lower()):
                found[path.stem] = path
    return {image: path.name for image, path in found.items()}


def _text_lines(path: pathlib.Path, what: str) -> list[str]:
    try:
        return regular_file(path).read_text(encoding="utf-8-sig").splitlines()
    except ValueError as error:
        raise InputError(f"{what} must be UTF-8 text. Received: {path} ({error})") from None


def _read_list(path: pathlib.Path, annotations: pathlib.Path) -> list[str]:
    try:
        lines = _text_lines(path, "a list of images")
    except OSError as error:
        raise InputError(
            f"a split must be listed in its file; VOC2007's test.txt is in an archive of its own. "
            f"Received: {path} ({error.strerror})"
        ) from None
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        image = line.strip()
        if not image:
            continue
        # `000001 -1`, as in the lists of one class, is no id; but an id may have spaces, and so look like it.
        marked = re.search(r"\s-?[01]$", image) and not (annotations / f"{image}.xml").exists()
        require_text(image, f"{path}, line {number}")
        if re.search(r"[/\\]", image) or marked:
            raise InputError(f"a line must be the id of one image. Received: {image!r} in {path}, line {number}")
        if image in first_line:
            raise InputError(
                f"an image must be listed once. Received: {image!r} in {path}, lines {first_line[image]} and {number}"
            )
        first_line[image] = number
    if not first_line:
        raise InputError(f"a list of images must name at least one. Received: {path}, empty")
    return list(first_line)
