"""Small COCO and VOC folders with real JPEGs."""

import json
import pathlib

import numpy as np
import PIL.Image

# As in the original: ids have gaps, and do not stand in order here.
CATEGORIES = {7: "train", 1: "person", 90: "toothbrush"}


def write_jpeg(path: pathlib.Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)


def annotation(image_id, category_id, area, **more):
    """One object; the outline is there to be ignored."""
    outline = [[0.5, 0.5, 3.0, 0.5, 3.0, 4.0]]
    return {
        "id": 1,
        "image_id": image_id,
        "category_id": category_id,
        "area": area,
        "iscrowd": 0,
        "bbox": [0.5, 0.5, 2.5, 3.5],
        "segmentation": outline,
        **more,
    }


CROWD = {"iscrowd": 1, "segmentation": {"counts": [3, 4, 113], "size": [10, 12]}}
TRAIN = [
    annotation(11, 1, 6.0),
    annotation(11, 7, 3.0),
    annotation(11, 1, 3.0),
    annotation(12, 90, 5.0, **CROWD),
    annotation(14, 7, 0.0),
    annotation(15, 1, 2.0),
]  # 13 has none
VAL = [annotation(21, 90, 1.0), annotation(21, 7, 3.0), annotation(22, 1, 8.0)]


def instances(ids, annotations, part="val", year="2017", categories=CATEGORIES):
    """The content of an `instances_*.json`, images in falling order of their ids."""
    return {
        "info": {"year": 2017, "description": "a test"},
        "licenses": [{"id": 1, "name": "free", "url": "http://example.org"}],
        "images": [
            {"id": id_, "file_name": f"{part}_{id_:04d}.jpg", "width": 12, "height": 10, "license": 1}
            for id_ in sorted(ids, reverse=True)
        ],
        "annotations": annotations,
        "categories": [{"id": id_, "name": name, "supercategory": "thing"} for id_, name in categories.items()],
    }


def write_coco(folder: pathlib.Path, year="2017", categories=CATEGORIES) -> pathlib.Path:
    """Five images in train, two in val; see `TRAIN` and `VAL`."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for part, ids, annotations in (("train", range(11, 16), TRAIN), ("val", (21, 22), VAL)):
        content = instances(ids, annotations, part, year, categories)
        (folder / "annotations" / f"instances_{part}{year}.json").write_text(json.dumps(content))
        for image in content["images"]:
            write_jpeg(folder / f"{part}{year}" / image["file_name"], image["id"])
    return folder


def voc_xml(*objects):
    """An annotation; an object is a class, or a class and its 'difficult' flag, or whole XML."""
    written = []
    for each in objects:
        if isinstance(each, str) and each.startswith("<"):
            written.append(each)
            continue
        label, difficult = (each, 0) if isinstance(each, str) else each
        written.append(
            f"<object><name>{label}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult>"
            "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>6</ymax></bndbox>"
            "<part><name>head</name></part></object>"
        )
    size = "<size><width>12</width><height>10</height><depth>3</depth></size>"
    return f"<annotation><folder>VOC2007</folder>{size}{''.join(written)}</annotation>"


def write_voc(folder: pathlib.Path, lists: dict[str, dict[str, tuple]]) -> pathlib.Path:
    """Writes the folder of one year.

    Args:
        folder: `.../VOC2007`.
        lists: maps the list (`train`) to the objects of each image id, see `voc_xml`.
    """
    for directory in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (folder / directory).mkdir(parents=True, exist_ok=True)
    for name, images in lists.items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{image}\n" for image in images))
        for seed, (image, objects) in enumerate(images.items()):
            (folder / "Annotations" / f"{image}.xml").write_text(voc_xml(*objects))
            write_jpeg(folder / "JPEGImages" / f"{image}.jpg", seed)
    return folder
