"""PASCAL VOC 2007 and 2012: objects of 20 classes in photos.

`--dataset=voc2007 --data_dir=DIR` (or `voc2012`): DIR is or holds `VOCdevkit/`, or is or holds `VOC2007/`, in which
are `ImageSets/Main/{train,val,test}.txt`, `Annotations/<id>.xml` and `JPEGImages/<id>.jpg`; the archives of train and
test unpack into one. Where DIR has none of it, or is not given, `voc/2007` is taken as TensorFlow Datasets prepared it
(see `tfds_images`).

- Splits: voc2007 has official train, validation (`val`) and test. The test labels of voc2012 are not public: its `val`
  is the test split here, and about 20% of `train` are carved off for validation by a hash of the file's name.
- Objects marked 'difficult' are left out of the positives. An image whose objects of a class are all difficult is a
  negative of that class, where the official evaluation leaves the pair out.
- Images without a label that is left stay in: they are negatives for every class.
- There is no reference distribution.
"""

import pathlib
import re
import xml.etree.ElementTree
from typing import NoReturn

import numpy as np

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import existing_folder, nearest
from mulsupcon_tf.datasets.splitting import finish_dataset
from mulsupcon_tf.datasets.tfds_images import PreparedImages, read_prepared
from mulsupcon_tf.utils.errors import InputError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_LISTS = {
    "2007": {"train": "train", "validation": "val", "test": "test"},
    "2012": {"train": "train", "test": "val"},
}
_IMAGE_ID = re.compile(r"[\w-]+")


def load_voc(name: str, data_dir: str | None, seed: int) -> MultiLabelDataset:
    """Loads one year of PASCAL VOC; the module's page says what counts as a label.

    Args:
        name: "voc2007" or "voc2012".
        data_dir: folder of the VOC development kit, or of TensorFlow Datasets, or None for the latter's default folder.
        seed: of the training samples that become validation in voc2012.

    Raises:
        InputError: `data_dir` is no folder; neither the kit nor the prepared dataset is there; a list, annotation or
            image is missing or broken; an object is of no known class.
    """
    year = name.removeprefix("voc")
    folder = None if data_dir is None else existing_folder(data_dir, name)
    kit = None if folder is None else _find_year(folder, year)
    if kit is not None:
        return finish_dataset(name, "image", CLASSES, _read_folder(kit, year), seed)
    label_names, parts = read_prepared(name, _prepared(year), folder)
    splits = {part: Split(objects.files, objects.labels(len(label_names))) for part, objects in parts.items()}
    return finish_dataset(name, "image", label_names, splits, seed)


def read_annotation(path: pathlib.Path) -> np.ndarray:
    """Reads which classes one image shows.

    Args:
        path: an XML file of the kit.

    Returns:
        `[20]` uint8: 1 for each class with an object that is not 'difficult'.

    Raises:
        InputError: the file cannot be read, is no XML or has a document type; an object has no class of the 20.
    """
    try:
        # A document type can define entities that grow without bound; the kit has none.
        parser = xml.etree.ElementTree.XMLParser(target=_WithoutDocumentType())
        root = xml.etree.ElementTree.parse(path, parser).getroot()
    except OSError as error:
        raise InputError(f"an annotation must be readable. Received: {path} ({error.strerror})") from None
    except (xml.etree.ElementTree.ParseError, ValueError, LookupError) as error:  # the latter two: unknown encodings
        raise InputError(f"an annotation must be XML without a document type. Received: {path} ({error})") from None
    labels = np.zeros(len(CLASSES), np.uint8)
    for element in root.findall("object"):
        label = (element.findtext("name") or "").strip()
        if label not in CLASSES:
            raise InputError(
                f"an object must be of one of the {len(CLASSES)} classes of PASCAL VOC. "
                f"Received: {label!r} (nearest: {nearest(label, CLASSES)!r}) in {path}"
            )
        if (element.findtext("difficult") or "0").strip() != "1":
            labels[CLASSES.index(label)] = 1
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


def _read_folder(folder: pathlib.Path, year: str) -> dict[str, Split]:
    splits = {}
    for part, list_name in _LISTS[year].items():
        ids = _read_list(folder / "ImageSets" / "Main" / f"{list_name}.txt")
        files = ImageFiles.below(folder / "JPEGImages", (f"{image}.jpg" for image in ids))
        labels = [read_annotation(folder / "Annotations" / f"{image}.xml") for image in ids]
        splits[part] = Split(files, np.stack(labels))
    return splits


def _read_list(path: pathlib.Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(
            f"a split must be listed in its file; VOC2007's test.txt is in an archive of its own. "
            f"Received: {path} ({error.strerror})"
        ) from None
    except ValueError as error:
        raise InputError(f"a list of images must be UTF-8 text. Received: {path} ({error})") from None
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        image = line.strip()
        if not image:
            continue
        if not _IMAGE_ID.fullmatch(image):
            raise InputError(f"a line must be the id of one image. Received: {image!r} in {path}, line {number}")
        if image in first_line:
            raise InputError(
                f"an image must be listed once. Received: {image!r} in {path}, lines {first_line[image]} and {number}"
            )
        first_line[image] = number
    if not first_line:
        raise InputError(f"a list of images must name at least one. Received: {path}, empty")
    return list(first_line)
