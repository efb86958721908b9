"""Folders in PASCAL VOC's layout, whole and damaged, against minidom."""

import pathlib
import random
import re
import xml.dom.minidom
import xml.sax.saxutils

import pytest

from mulsupcon_tf.datasets.registry import load_dataset
from tests.campaign.inputs import SCALES, campaign, contents, damaged, put, reading_of, with_lines_moved

CLASSES = ("cat", "dog", "traffic light", "R&B", "Übung")
IMAGES = (*(f"{number:03}" for number in range(6)), "a.b.c", "a b", "Übung", "日本", "-1 x")
DIFFICULT = {
    "0": False,
    "1": True,
    "true": True,
    "False": False,
    "": False,
    None: False,
    " 1 ": True,
    "Unspecified": False,
}
MARKS = {"": False, "0": False, "false": False, "no": False, "unspecified": False, "1": True, "true": True, "yes": True}
TEXTS = ("", "cow", "CAT", "2", "maybe", "<x/>", "&lt;", "cat cat", "\u202e", "\n dog \n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("voc")
    for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (path / name).mkdir(parents=True)
    for number, image in enumerate(IMAGES):
        (path / "JPEGImages" / f"{image}{('.jpg', '.jpeg', '.PNG')[number % 3]}").write_bytes(b"")
    return path


def annotation(objects, random_: random.Random) -> str:
    lines = ["<annotation><folder>VOC</folder>", "<size><width>8</width></size>"]
    for name, difficult in objects:
        mark = "" if difficult is None else f"<difficult>{difficult}</difficult>"
        part = "<part><name>head</name></part>" if random_.random() < 0.1 else ""
        lines.append(f"<object>{part}<name>{xml.sax.saxutils.escape(name)}</name>{mark}</object>")
    return "\n".join([*lines, "</annotation>"])


def case(random_: random.Random):
    """The lists of the three splits, and the objects of each image: names and marks."""
    images = random_.sample(IMAGES, len(IMAGES))
    cuts = sorted(random_.sample(range(2, len(images) - 1), 2))
    lists = dict(
        zip(("train", "val", "test"), (images[: cuts[0]], images[cuts[0] : cuts[1]], images[cuts[1] :]), strict=True)
    )
    marks = list(DIFFICULT)
    objects = {
        image: [(random_.choice(CLASSES), random_.choice(marks)) for _ in range(random_.randint(0, 4))]
        for image in images
    }
    for label, image in zip(CLASSES, random_.sample(images, len(CLASSES)), strict=True):
        objects[image].append((label, "0"))
    return lists, objects


def write(folder: pathlib.Path, lists: dict, objects: dict, random_: random.Random) -> None:
    line_end = random_.choice(("\n", "\r\n"))
    encoding = random_.choice(("utf-8", "utf-8-sig"))
    put(folder / "classes.txt", line_end.join(CLASSES).encode(encoding))
    for name, images in lists.items():
        put(
            folder / "ImageSets/Main" / f"{name}.txt",
            "".join(f"{image}{line_end}" for image in images).encode(encoding),
        )
    for image, own in objects.items():
        declaration = random_.choice(("", '<?xml version="1.0" encoding="utf-8"?>\n'))
        put(folder / "Annotations" / f"{image}.xml", declaration + annotation(own, random_))


def names_in(dataset):
    return {pathlib.PurePath(name).stem: found for name, found in contents(dataset).items()}


def text_of(element) -> str:
    return "".join(child.data for child in element.childNodes[:1] if child.nodeType == child.TEXT_NODE)


def read_by_minidom(folder: pathlib.Path):
    found = {}
    for part, name in {"train": "train", "validation": "val", "test": "test"}.items():
        for line in (folder / "ImageSets/Main" / f"{name}.txt").read_bytes().decode("utf-8-sig").splitlines():
            image = line.strip()
            if not image:
                continue
            assert image not in found, f"{image} twice"
            document = xml.dom.minidom.parse(str(folder / "Annotations" / f"{image}.xml"))
            labels = set()
            for element in (each for each in document.documentElement.childNodes if each.nodeName == "object"):
                texts = {child.nodeName: text_of(child) for child in reversed(element.childNodes)}
                if not MARKS[re.sub(r"\s", "", texts.get("difficult", "")).lower()]:
                    labels.add(texts["name"].strip())
            found[image] = (part, frozenset(labels))
    return found


@pytest.mark.parametrize("times", SCALES)
def test_folders_are_read_as_they_were_written(folder, times):
    def attempt(random_):
        lists, objects = case(random_)
        write(folder, lists, objects, random_)
        dataset, refusal = reading_of(lambda: load_dataset("voc2007", folder))
        assert refusal is None, f"{refusal} {lists} {objects}"
        parts = {
            image: part
            for name, part in (("train", "train"), ("val", "validation"), ("test", "test"))
            for image in lists[name]
        }
        truth = {
            image: (parts[image], frozenset(label for label, mark in own if not DIFFICULT[mark]))
            for image, own in objects.items()
        }
        assert names_in(dataset) == truth == read_by_minidom(folder)

    campaign("VOC", 60 * times, attempt)


@pytest.mark.parametrize("times", SCALES)
def test_damaged_folders_are_refused_or_read_as_they_stand(folder, times):
    def attempt(random_):
        lists, objects = case(random_)
        accident = random_.choice(("annotation", "annotation", "list", "lines", "classes", "text", "bomb"))
        image = random_.choice(IMAGES)
        if accident == "text":
            objects[image].append(random_.choice(((random_.choice(TEXTS), "0"), ("cat", random_.choice(TEXTS)))))
        write(folder, lists, objects, random_)
        path = {
            "list": folder / "ImageSets/Main" / f"{random_.choice(list(lists))}.txt",
            "lines": folder / "ImageSets/Main" / f"{random_.choice(list(lists))}.txt",
            "classes": folder / "classes.txt",
        }.get(accident, folder / "Annotations" / f"{image}.xml")
        content = path.read_bytes()
        if accident == "lines":
            put(path, with_lines_moved(content.decode(), random_).encode())
        elif accident == "bomb":
            entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 6))
            put(path, f'<!DOCTYPE a [<!ENTITY a0 "x">{entities}]><annotation>&a5;</annotation>')
        elif accident != "text":
            put(path, damaged(content, random_))
        dataset, refusal = reading_of(lambda: load_dataset("voc2007", folder))
        if refusal is None:
            try:
                assert names_in(dataset) == read_by_minidom(folder)
            except Exception as error:
                raise AssertionError(
                    f"{type(error).__name__} {error} {accident} {path} {path.read_bytes()!r}"
                ) from None

    campaign("damaged VOC", 90 * times, attempt)
