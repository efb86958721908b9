"""MS-COCO and every dataset in its layout: objects in photos, of 80 categories in the original.

`--dataset=coco --data_dir=DIR`: DIR holds `train2014/`, `val2014/`, `annotations/instances_train2014.json` and
`annotations/instances_val2014.json`, or the same of 2017. Where both years are whole, 2014 is taken, since most
multi-label results are reported on it. Or DIR holds `train/`, and perhaps `valid/` (or `val/`, `validation/`) and
`test/`, each with its images and a list `_annotations.coco.json` beside them, as Roboflow exports them. Where DIR is not
given or empty, or is a folder of TensorFlow Datasets, `coco/2014` is taken as that prepared it (see `tfds_images`).

- Splits: train2014 is train, of which about 20% are carved off for validation by a hash of `file_name`; val2014 is the
  test split, as in the literature, since the labels of the official test set are not public. Images are in the order of
  their file names. Both sources give the same splits. Of Roboflow's folders each is the split of its name.
- Labels: the categories in the order of their ids, which have gaps. A category without any object in any split is
  left out, with a warning; the original has none, Roboflow's have a root that no object is of.
- A file is one sample, whatever the number of ids that it is listed under: it has the objects of all of them.
- Every annotation counts, crowds too, as in [1]; some other code takes a category that is only a crowd for unknown.
- Images without annotations stay in, without labels: they are negatives for every category. Others leave them out [1],
  702 of train2014 and 367 of val2014, so that numbers compare nearly, not exactly.
- Distribution: the share of each category in the summed `area` of an image's annotations. A reference, not the truth:
  an object that lies on another counts twice, a crowd is one rough region, and some files (not the original) give the
  area of the box instead of that of the outline. TFDS keeps areas as whole numbers. Where an object of any split has no
  `area`, no distribution is known.

[1] Ridnik et al., Asymmetric Loss for Multi-Label Classification, 2021, github.com/Alibaba-MIIL/ASL.
"""

import collections
import json
import logging
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import existing_folder, listed, path_inside
from mulsupcon_tf.datasets.images.image_objects import ImageObjects
from mulsupcon_tf.datasets.images.tfds_images import PreparedImages, read_prepared
from mulsupcon_tf.datasets.splitting import finish_dataset
from mulsupcon_tf.utils.atomic_file import regular_file
from mulsupcon_tf.utils.errors import InputError

_logger = logging.getLogger("mulsupcon_tf")
_YEARS = ("2014", "2017")
_PARTS = {"train": "train", "test": "val"}
_ROBOFLOW_PARTS = {"train": ("train",), "validation": ("valid", "val", "validation"), "test": ("test",)}
_ROBOFLOW_LIST = "_annotations.coco.json"
_TFDS = PreparedImages(
    dataset="coco/2014",
    splits={"train": "train", "test": "validation"},
    label_feature=("objects", "label"),
    objects_of=lambda example: (example["objects"]["label"], example["objects"]["area"]),
    official_layout="train2014/, val2014/, annotations/instances_train2014.json and instances_val2014.json "
    f"(or the same of 2017, or Roboflow's train/{_ROBOFLOW_LIST})",
)


class _Entry(NamedTuple):
    """What is kept of an image, an annotation or a category; None for what it does not have."""

    id: Any
    file_name: Any
    image_id: Any
    category_id: Any
    area: Any
    name: Any


# What each entry of a list must have.
_LISTS = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}


def load_coco(name: str, data_dir: str | None, seed: int) -> MultiLabelDataset:
    """Loads `--dataset=coco`; the module's page says what counts as a label.

    Args:
        name: to give to the dataset.
        data_dir: folder in COCO layout, or of TensorFlow Datasets, or None for the latter's default folder.
        seed: of the training samples that become validation.

    Raises:
        InputError: `data_dir` is no folder; the layout is not complete, or neither it nor the prepared dataset is
            there; a file is missing, no JSON or no list of instances; an annotation names an unknown image or category;
            two categories with objects have one name; an image has no name inside its folder, or is not there.
    """
    folder = None if data_dir is None else existing_folder(data_dir, name)
    lists = {} if folder is None else _find_lists(folder)
    label_names, parts = _read_lists(lists) if lists else read_prepared(name, _TFDS, folder)
    return _finish(name, label_names, parts, seed)


def _find_lists(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """The list of instances and the folder of images of each split; none where the folder has nothing of any layout."""
    year = _find_year(folder)
    if year is not None:
        return {
            part: (folder / "annotations" / f"instances_{prefix}{year}.json", folder / f"{prefix}{year}")
            for part, prefix in _PARTS.items()
        }
    holders = [path.parent for path in sorted(folder.glob(f"[!.]*/{_ROBOFLOW_LIST}"))]
    parts = {part: [images for images in holders if images.name in own] for part, own in _ROBOFLOW_PARTS.items()}
    found = {part: of_part[0] for part, of_part in parts.items() if of_part}
    if len(found) < len(holders):  # what is passed over is no part of anything, and a split is drawn that is there
        raise InputError(
            f"the folders with {_ROBOFLOW_LIST} must be train, valid (or val, or validation) and test, one a split. "
            f"Received: {', '.join(path.name for path in holders)} in {folder}"
        )
    if found and "train" not in found:
        raise InputError(
            f"--data_dir must hold train/{_ROBOFLOW_LIST} where it holds that of another split. "
            f"Received: only {', '.join(path.name for path in found.values())} in {folder}"
        )
    return {part: (images / _ROBOFLOW_LIST, images) for part, images in found.items()}


def _find_year(folder: pathlib.Path) -> str | None:
    """The year to read, or None where the folder has nothing of COCO's own layout."""
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


def _read_lists(
    lists: dict[str, tuple[pathlib.Path, pathlib.Path]],
) -> tuple[tuple[str, ...], dict[str, ImageObjects]]:
    names, parts = {}, {}
    for part, (path, images) in lists.items():
        names[path], parts[part] = read_instances(path, images)
    (first, ours), *others = names.items()
    for second, theirs in others:
        if ours != theirs:
            differing = sorted(set(ours.items()) ^ set(theirs.items()))[0]
            raise InputError(
                f"all splits must list the same categories. "
                f"Received: id {differing[0]}, {differing[1]!r}, not in both {first} and {second}"
            )
    used = _used_columns(parts, len(ours))
    seen: dict[str, int] = {}
    for (category, label), has_objects in zip(ours.items(), used, strict=True):
        if has_objects and seen.setdefault(label, category) != category:
            raise InputError(
                f"categories with objects must have distinct names. "
                f"Received: {label!r} of the ids {seen[label]} and {category} in {first}"
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
    row_of, files = _image_rows(lists["images"], path, image_folder)
    column_of = {category: column for column, category in enumerate(names)}
    count = len(lists["annotations"])
    rows, columns, areas = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count)
    for index, entry in enumerate(lists["annotations"]):
        area = math.nan if entry.area is None else entry.area
        fault = None
        if not isinstance(entry.image_id, int | str) or entry.image_id not in row_of:
            fault = "image_id", "the id of one of the images", entry.image_id
        elif not isinstance(entry.category_id, int) or entry.category_id not in column_of:
            fault = "category_id", "the id of one of the categories", entry.category_id
        elif entry.area is not None and not (isinstance(area, int | float) and 0 <= area < math.inf):
            fault = "area", "a number, 0 or more", area
        if fault is not None:
            key, rule, received = fault
            raise InputError(f"{key} must be {rule}. Received: {received!r} in annotation {index} (from 0) of {path}")
        rows[index], columns[index], areas[index] = row_of[entry.image_id], column_of[entry.category_id], area
    return names, ImageObjects(ImageFiles(files, folder=str(image_folder)), rows, columns, areas)


def _parse(path: pathlib.Path) -> dict[str, list[_Entry]]:
    try:
        with regular_file(path).open(encoding="utf-8-sig") as file:
            content = json.load(file, object_hook=_reduced)
    except OSError as error:
        raise InputError(f"a list of instances must be readable. Received: {path} ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number or nesting beyond reason
        raise InputError(f"a list of instances must be JSON. Received: {path} ({error})") from None
    for key, fields in _LISTS.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise InputError(
                f"a list of instances must have the lists {', '.join(_LISTS)}. Received: no {key} in {path}"
            )
        for index, entry in enumerate(entries):
            absent = [field for field in fields if getattr(entry, field, None) is None]
            if absent:
                raise InputError(
                    f"every entry of {key} must have {', '.join(fields)}. "
                    f"Received: none for {', '.join(absent)} in entry {index} (from 0) of {path}"
                )
    return content


def _reduced(item: dict[str, Any]) -> Any:
    """What to keep of a JSON object, called for the innermost first; None for those that nobody needs.

    An object does not tell in which list it stands, and programs write keys of their own into each: an `image_id` into
    images, a `name` into annotations. So every object keeps all that some list needs.
    """
    entry = _Entry(*map(item.get, _Entry._fields))
    if _LISTS.keys() & item.keys() and entry.file_name is None and entry.image_id is None:
        return item
    return None if entry.count(None) == len(entry) else entry


def _category_names(categories: list[_Entry], path: pathlib.Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for category in categories:
        shown = (category.id, category.name)
        if not isinstance(category.id, int) or not isinstance(category.name, str):
            raise InputError(f"a category must have a whole number and a name. Received: {shown} in {path}")
        if category.id in names:
            raise InputError(f"ids of categories must be distinct. Received: {shown}, known already, in {path}")
        names[category.id] = category.name
    return dict(sorted(names.items()))


def _image_rows(
    images: list[_Entry], path: pathlib.Path, image_folder: pathlib.Path
) -> tuple[dict[int | str, int], np.ndarray]:
    """The row of each id, and the `[N]` paths of the rows, in the order of the names."""
    file_of: dict[int | str, str] = {}
    for image in images:
        if not isinstance(image.id, int | str) or not isinstance(image.file_name, str):
            raise InputError(
                f"an image must have an id and a file name. Received: {(image.id, image.file_name)} in {path}"
            )
        if image.id in file_of:
            raise InputError(f"ids of images must be distinct. Received: {image.id!r} twice in {path}")
        file_of[image.id] = str(path_inside(image_folder, image.file_name, str(path)))
    files = sorted(set(file_of.values()))
    if len(files) < len(file_of):
        _logger.warning(
            "%s: files under several ids, each of which is one sample with the objects of all its ids: %d",
            path,
            sum(count > 1 for count in collections.Counter(file_of.values()).values()),
        )
    row_of_file = {file: row for row, file in enumerate(files)}
    return {id_: row_of_file[file] for id_, file in file_of.items()}, np.array(files, object)


def _used_columns(parts: dict[str, ImageObjects], num_labels: int) -> np.ndarray:
    """`[C]` bool: whether any split has an object of the label."""
    used = np.zeros(num_labels, bool)
    for part in parts.values():
        used[part.columns] = True
    return used


def _finish(name: str, label_names: tuple[str, ...], parts: dict[str, ImageObjects], seed: int) -> MultiLabelDataset:
    count = len(label_names)
    used = _used_columns(parts, count)
    kept = tuple(label for label, seen in zip(label_names, used, strict=True) if seen)
    unused = np.flatnonzero(~np.isin(label_names, kept))  # not a root that has the name of another category
    if len(unused):
        _logger.warning("%s: no object in any image, so left out of the labels: %s", name, listed(label_names, unused))
    shares = {}
    if all(np.isfinite(objects.areas).all() for objects in parts.values()):
        shares = {part: objects.area_shares(count)[:, used] for part, objects in parts.items()}
    else:
        _logger.warning("%s: not every object has an area, so no label distribution is known", name)
    splits = {
        part: Split(objects.files, objects.labels(count)[:, used], shares.get(part)) for part, objects in parts.items()
    }
    return finish_dataset(name, "image", kept, splits, seed)
