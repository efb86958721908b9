"""MS-COCO and every dataset in its layout: objects in photos, of 80 categories in the original.

`--dataset=coco --data_dir=DIR`: DIR holds `train2014/`, `val2014/`, `annotations/instances_train2014.json` and
`annotations/instances_val2014.json`, or the same of 2017. Where both years are whole, 2014 is taken, since most
multi-label results are reported on it. Where DIR has neither, or is not given, `coco/2014` is taken as TensorFlow
Datasets prepared it (see `tfds_images`).

- Splits: train2014 is train, of which about 20% are carved off for validation by a hash of `file_name`; val2014 is the
  test split, as in the literature, since the labels of the official test set are not public. Images are in the order of
  their file names. Both sources give the same splits.
- Labels: the categories in the order of their ids, which have gaps. A category without any object in train and val is
  left out, with a warning; the original has none.
- Every annotation counts, crowds too, as in [1]; some other code takes a category that is only a crowd for unknown.
- Images without annotations stay in, without labels: they are negatives for every category. Others leave them out [1],
  702 of train2014 and 367 of val2014, so that numbers compare nearly, not exactly.
- Distribution: the share of each category in the summed `area` of an image's annotations. A reference, not the truth:
  an object that lies on another counts twice, a crowd is one rough region, and some files (not the original) give the
  area of the box instead of that of the outline. TFDS keeps areas as whole numbers.

[1] Ridnik et al., Asymmetric Loss for Multi-Label Classification, 2021, github.com/Alibaba-MIIL/ASL.
"""

import json
import logging
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import existing_folder, listed, path_inside
from mulsupcon_tf.datasets.image_objects import ImageObjects
from mulsupcon_tf.datasets.splitting import finish_dataset
from mulsupcon_tf.datasets.tfds_images import PreparedImages, read_prepared
from mulsupcon_tf.utils.errors import InputError

_logger = logging.getLogger("mulsupcon_tf")
_YEARS = ("2014", "2017")
_PARTS = {"train": "train", "test": "val"}
_TFDS = PreparedImages(
    dataset="coco/2014",
    splits={"train": "train", "test": "validation"},
    label_feature=("objects", "label"),
    objects_of=lambda example: (example["objects"]["label"], example["objects"]["area"]),
    official_layout="train2014/, val2014/, annotations/instances_train2014.json and instances_val2014.json "
    "(or the same of 2017)",
)


class _Image(NamedTuple):
    id: Any
    file_name: Any


class _Annotation(NamedTuple):
    image_id: Any
    category_id: Any
    area: Any


class _Category(NamedTuple):
    id: Any
    name: Any


_LISTS: dict[str, type[tuple]] = {"images": _Image, "annotations": _Annotation, "categories": _Category}


def load_coco(name: str, data_dir: str | None, seed: int) -> MultiLabelDataset:
    """Loads `--dataset=coco`; the module's page says what counts as a label.

    Args:
        name: to give to the dataset.
        data_dir: folder in COCO layout, or of TensorFlow Datasets, or None for the latter's default folder.
        seed: of the training samples that become validation.

    Raises:
        InputError: `data_dir` is no folder; the layout is not complete, or neither it nor the prepared dataset is
            there; a file is missing, no JSON or no list of instances; an annotation names an unknown image or category;
            an image has no name inside its folder, or is not there.
    """
    folder = None if data_dir is None else existing_folder(data_dir, name)
    year = None if folder is None else _find_year(folder)
    if folder is None or year is None:
        label_names, parts = read_prepared(name, _TFDS, folder)
    else:
        label_names, parts = _read_folder(folder, year)
    return _finish(name, label_names, parts, seed)


def _find_year(folder: pathlib.Path) -> str | None:
    """The year to read, or None where the folder has nothing of COCO's layout."""
    missing = {}
    for year in _YEARS:
        pieces = [f"{part}{year}" for part in _PARTS.values()]
        pieces += [f"annotations/instances_{part}{year}.json" for part in _PARTS.values()]
        absent = [piece for piece in pieces if not (folder / piece).exists()]
        if len(absent) < len(pieces):
            missing[year] = absent
    whole = [year for year, absent in missing.items() if not absent]
    if whole:
        if len(whole) > 1:
            _logger.info("coco: %s holds %s; %s is taken", folder, " and ".join(whole), whole[0])
        return whole[0]
    if missing:
        year = min(missing, key=lambda year: len(missing[year]))
        raise InputError(
            f"--data_dir must hold {_TFDS.official_layout} for --dataset=coco. "
            f"Received: no {', '.join(missing[year])} in {folder}"
        )
    return None


def _read_folder(folder: pathlib.Path, year: str) -> tuple[tuple[str, ...], dict[str, ImageObjects]]:
    parts, names = {}, {}
    for part, prefix in _PARTS.items():
        path = folder / "annotations" / f"instances_{prefix}{year}.json"
        names[path], parts[part] = read_instances(path, folder / f"{prefix}{year}")
    (first, ours), (second, theirs) = names.items()
    if ours != theirs:
        differing = sorted(set(ours.items()) ^ set(theirs.items()))[0]
        raise InputError(
            f"train and test must list the same categories. "
            f"Received: id {differing[0]}, {differing[1]!r}, not in both {first} and {second}"
        )
    return tuple(ours.values()), parts


def read_instances(path: pathlib.Path, image_folder: pathlib.Path) -> tuple[dict[int, str], ImageObjects]:
    """Reads one `instances_*.json`.

    The original train files have 400 MB and more, most of it outlines; they are dropped while parsing.

    Args:
        path: the JSON file.
        image_folder: what its `file_name`s are relative to.

    Returns:
        Names of the categories by id, in the order of the ids, and the images in the order of their names; columns
        count the categories in that order.

    Raises:
        InputError: the file cannot be read or breaks a rule; the message gives the file and the entry.
    """
    lists = _parse(path)
    names = _category_names(lists["categories"], path)
    images = sorted(_checked_images(lists["images"], path), key=lambda image: image.file_name)
    files = np.array([str(path_inside(image_folder, image.file_name, str(path))) for image in images], object)
    row_of = {image.id: row for row, image in enumerate(images)}
    if len(row_of) < len(images):
        twice = next(image.id for row, image in enumerate(images) if row_of[image.id] != row)
        raise InputError(f"ids of images must be distinct. Received: {twice!r} twice in {path}")
    column_of = {category: column for column, category in enumerate(names)}
    count = len(lists["annotations"])
    rows, columns, areas = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count)
    for index, (image_id, category_id, area) in enumerate(lists["annotations"]):
        fault = None
        if not isinstance(image_id, int | str) or image_id not in row_of:
            fault = "image_id", "the id of one of the images", image_id
        elif not isinstance(category_id, int) or category_id not in column_of:
            fault = "category_id", "the id of one of the categories", category_id
        elif not isinstance(area, int | float) or not 0 <= area < math.inf:
            fault = "area", "a number, 0 or more", area
        if fault is not None:
            key, rule, received = fault
            raise InputError(f"{key} must be {rule}. Received: {received!r} in annotation {index} (from 0) of {path}")
        rows[index], columns[index], areas[index] = row_of[image_id], column_of[category_id], area
    return names, ImageObjects(ImageFiles(files, folder=str(image_folder)), rows, columns, areas)


def _parse(path: pathlib.Path) -> dict[str, list]:
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=_reduced)
    except OSError as error:
        raise InputError(f"a list of instances must be readable. Received: {path} ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number or nesting beyond reason
        raise InputError(f"a list of instances must be JSON. Received: {path} ({error})") from None
    for key, kind in _LISTS.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise InputError(
                f"a list of instances must have the lists {', '.join(_LISTS)}. Received: no {key} in {path}"
            )
        for index, entry in enumerate(entries):
            if not isinstance(entry, kind) or None in entry:
                fields = kind._fields  # type: ignore[attr-defined]
                absent = [field for field in fields if getattr(entry, field, None) is None]
                raise InputError(
                    f"every entry of {key} must have {', '.join(fields)}. "
                    f"Received: none for {', '.join(absent)} in entry {index} (from 0) of {path}"
                )
    return content


def _reduced(item: dict[str, Any]) -> Any:
    """What to keep of a JSON object, called for the innermost first; None for those that nobody needs."""
    if "image_id" in item or "category_id" in item:
        return _Annotation(item.get("image_id"), item.get("category_id"), item.get("area"))
    if "file_name" in item:
        return _Image(item.get("id"), item["file_name"])
    if _LISTS.keys() & item.keys():
        return item
    if "name" in item:
        return _Category(item.get("id"), item["name"])
    return None


def _category_names(categories: list[_Category], path: pathlib.Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for category in categories:
        if not isinstance(category.id, int) or not isinstance(category.name, str):
            raise InputError(f"a category must have a whole number and a name. Received: {tuple(category)} in {path}")
        if category.id in names or category.name in names.values():
            raise InputError(f"categories must be distinct. Received: {tuple(category)}, known already, in {path}")
        names[category.id] = category.name
    return dict(sorted(names.items()))


def _checked_images(images: list[_Image], path: pathlib.Path) -> list[_Image]:
    for image in images:
        if not isinstance(image.id, int | str) or not isinstance(image.file_name, str):
            raise InputError(f"an image must have an id and a file name. Received: {tuple(image)} in {path}")
    return images


def _finish(name: str, label_names: tuple[str, ...], parts: dict[str, ImageObjects], seed: int) -> MultiLabelDataset:
    used = np.zeros(len(label_names), bool)
    for part in parts.values():
        used[part.columns] = True
    if not used.all():
        unused = listed(label_names, np.flatnonzero(~used))
        _logger.warning("%s: no object in any image, so left out of the labels: %s", name, unused)
    count = len(label_names)
    splits = {
        part: Split(objects.files, objects.labels(count)[:, used], objects.area_shares(count)[:, used])
        for part, objects in parts.items()
    }
    kept = tuple(label for label, seen in zip(label_names, used, strict=True) if seen)
    return finish_dataset(name, "image", kept, splits, seed)
