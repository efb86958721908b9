"""Lists of instances in COCO's layouts, whole and damaged, against a loop over what Python's json module reads."""

import json
import pathlib
import random
import unicodedata

import numpy as np
import pytest

from mulsupcon_tf.datasets.registry import load_dataset
from tests.campaign.inputs import SCALES, campaign, chosen, damaged, put, reading_of
from tests.datasets.splits_by_hash import place

IMAGES = (*(f"{number:03}.jpg" for number in range(20)), "sub/a b.jpg", "Übung.png", "A.jpg", "a.jpg", "日本.webp")
LAYOUTS = {
    "years": {
        "train": ("annotations/instances_train2017.json", "train2017"),
        "test": ("annotations/instances_val2017.json", "val2017"),
    },
    "Roboflow": {
        part: (f"{folder}/_annotations.coco.json", folder)
        for part, folder in {"train": "train", "validation": "valid", "test": "test"}.items()
    },
}
NODES = (
    None,
    True,
    -1,
    0,
    1,
    2.5,
    1e308,
    float("nan"),
    float("inf"),
    2**70,
    "",
    "x",
    "cat",
    "000.jpg",
    "../000.jpg",
    "/000.jpg",
    "\ud800",
    "a\nb",
    [],
    {},
    [[]],
    {"id": 1},
    "9" * 5000,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, pathlib.Path]:
    root = tmp_path_factory.mktemp("coco")
    for layout, lists in LAYOUTS.items():
        for path, images in lists.values():
            (root / layout / path).parent.mkdir(parents=True, exist_ok=True)
            for image in IMAGES:
                (root / layout / images / image).parent.mkdir(parents=True, exist_ok=True)
                (root / layout / images / image).write_bytes(b"")
    return {layout: root / layout for layout in LAYOUTS}


def case(layout: str, random_: random.Random) -> dict[str, dict]:
    """What each list holds."""
    ids = random_.sample(range(1, 90), random_.randint(2, 5))
    names = random_.sample(("cat", "dog", "traffic light", "Übung", "日本", "2"), len(ids))
    categories = [{"id": id_, "name": name, "supercategory": "thing"} for id_, name in zip(ids, names, strict=True)]
    if random_.random() < 0.3:
        categories.insert(0, {"id": 0, "name": random_.choice(("root", names[0])), "supercategory": "none"})
    areas, text_ids, backslashes = random_.random() < 0.8, random_.random() < 0.3, random_.random() < 0.2
    lists = {}
    for part in LAYOUTS[layout]:
        files = random_.sample(IMAGES, random_.randint(12, len(IMAGES)))
        files += chosen(random_, files, 2) if random_.random() < 0.2 else []  # a file under two ids
        images = [
            {
                "id": f"n{number}" if text_ids else number * 7,
                "file_name": file.replace("/", "\\") if backslashes else file,
                "width": 8,
            }
            for number, file in enumerate(files)
        ]
        annotations = []
        for number in range(random_.randint(len(ids), 60)):
            own = {"id": number, "image_id": random_.choice(images)["id"], "iscrowd": 0, "bbox": [0, 0, 2, 3.5]}
            own["category_id"] = ids[number] if number < len(ids) else random_.choice(ids)
            own |= {"area": random_.choice((0, 1, 2.5, 1e5)), "segmentation": [[0, 0, 1, 1, 2, 2]]} if areas else {}
            annotations.append(own)
        lists[part] = {"info": {"year": 2017}, "images": images, "annotations": annotations, "categories": categories}
    return lists


def write(folder: pathlib.Path, layout: str, texts: dict[str, bytes]) -> None:
    for part, content in texts.items():
        put(folder / LAYOUTS[layout][part][0], content)


def read_by_a_loop(lists):
    """Maps each file of each split to its labels, and to the share of each in the area; None where areas are missing."""
    labels, areas, known = {}, {}, True
    for part, content in lists.items():
        names = {category["id"]: category["name"] for category in content["categories"]}
        files = {image["id"]: image["file_name"].replace("\\", "/") for image in content["images"]}
        for file in files.values():
            labels.setdefault((part, file), set())
        for annotation in content["annotations"]:
            key = part, files[annotation["image_id"]]
            name = names[annotation["category_id"]]
            labels[key].add(name)
            known &= annotation.get("area") is not None
            of_file = areas.setdefault(key, {})
            of_file[name] = of_file.get(name, 0) + (annotation.get("area") or 0)
    return labels, areas if known else None


def require_equal(dataset, lists):
    labels, areas = read_by_a_loop(lists)

    def listed_in(part):
        return "train" if part == "validation" and "validation" not in lists else part

    where = {}
    for (part, file), own in labels.items():
        name = unicodedata.normalize("NFC", file)
        drawn = place(name, parts=("validation",)) if part == "train" and "validation" not in lists else part
        where[part, name] = (drawn, frozenset(own))
    if {part for part, _ in where.values()} == {"train", "validation", "test"}:  # else one of so few was moved
        assert {(listed_in(part), name): (part, own) for part, name, own in rows_of(dataset)} == where
    if areas is None:
        assert dataset.splits["train"].distributions is None
        return
    known = {(part, unicodedata.normalize("NFC", file)): own for (part, file), own in areas.items()}
    for part, split in dataset.splits.items():
        for name, row in zip(split.inputs.names, split.distributions, strict=True):
            own = known.get((listed_in(part), name), {})
            total = sum(own.values())
            shares = {label: area / total if total else 1 / len(own) for label, area in own.items()}
            np.testing.assert_allclose(row, [shares.get(label, 0) for label in dataset.label_names], atol=1e-6)


def rows_of(dataset):
    return [
        (part, name, frozenset(label for label, has in zip(dataset.label_names, row, strict=True) if has))
        for part, split in dataset.splits.items()
        for name, row in zip(split.inputs.names, split.labels, strict=True)
    ]


@pytest.mark.parametrize("times", SCALES)
def test_lists_of_instances_are_read_as_a_loop_reads_them(folders, times):
    def attempt(random_):
        layout = random_.choice(list(LAYOUTS))
        lists = case(layout, random_)
        encoding = random_.choice(("utf-8", "utf-8-sig"))
        style = {"ensure_ascii": random_.random() < 0.5, "indent": random_.choice((None, 1))}
        texts = {part: json.dumps(content, **style).encode(encoding) for part, content in lists.items()}
        write(folders[layout], layout, texts)
        dataset, refusal = reading_of(lambda: load_dataset("coco", folders[layout]))
        assert refusal is None, f"{refusal} {lists}"
        require_equal(dataset, lists)

    campaign("instances", 100 * times, attempt)


@pytest.mark.parametrize("times", SCALES)
def test_damaged_lists_are_refused_or_read_as_they_stand(folders, times):
    def attempt(random_):
        layout = random_.choice(list(LAYOUTS))
        lists = case(layout, random_)
        part = random_.choice(list(lists))
        accident = random_.choice(("bytes", "node", "node", "node", "lose", "double", "nest"))
        where = replaced(lists[part], accident, random_) if accident != "bytes" else ""
        texts = {each: json.dumps(content).encode() for each, content in lists.items()}
        if accident == "bytes":
            texts[part] = damaged(texts[part], random_)
        if accident == "nest":
            texts[part] = texts[part][:-1] + b', "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
        write(folders[layout], layout, texts)
        dataset, refusal = reading_of(lambda: load_dataset("coco", folders[layout]))
        if refusal is None:
            try:
                require_equal(dataset, {each: json.loads(text.decode("utf-8-sig")) for each, text in texts.items()})
                "".join(dataset.label_names).encode()
            except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
                raise AssertionError(f"{accident} {where} {type(error).__name__} {error}") from None

    campaign("damaged instances", 150 * times, attempt)


def replaced(content: dict, accident: str, random_: random.Random) -> str:
    """Replaces, takes away or doubles something in a list of instances, and says what."""
    key = random_.choice(("images", "annotations", "categories"))
    entry = random_.choice(content[key])
    field = random_.choice(list(entry))
    if accident == "lose":
        del entry[field]
    elif accident == "double":
        content[key].append(dict(entry))
    elif accident == "node" and random_.random() < 0.2:
        content[key] = random_.choice(NODES)
    elif accident == "node":
        entry[field] = random_.choice(NODES)
    return f"{key} {field} {entry}"[:300]
