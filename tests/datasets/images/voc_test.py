import pathlib
import time

import numpy as np
import pytest

from mulsupcon_tf.datasets.images.voc import CLASSES, load_voc, read_annotation
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.image_folders import voc_xml, write_voc

# Every class somewhere, since a dataset must show each; difficult ones and an image without any in test.
LISTS = {
    "train": {"000005": ("chair", ("dog", 1)), "000007": ("car",), "000009": CLASSES, "000012": ()},
    "val": {"000016": ("bicycle", "person", "person")},
    "test": {"000001": (("cat", 1), "cat"), "000002": (("train", 1),)},
}


def names_of(split):
    return [pathlib.Path(path).name for path in split.inputs.paths]


def positives(split):
    return [{CLASSES[column] for column in np.flatnonzero(row)} for row in split.labels]


def test_voc2007_has_the_official_splits_without_difficult_objects(tmp_path):
    write_voc(tmp_path / "VOCdevkit" / "VOC2007", LISTS)
    dataset = load_voc("voc2007", str(tmp_path), 0)
    assert (dataset.name, dataset.kind, dataset.on_disk, dataset.label_names) == ("voc2007", "image", True, CLASSES)
    assert {name: names_of(split) for name, split in dataset.splits.items()} == {
        "train": ["000005.jpg", "000007.jpg", "000009.jpg", "000012.jpg"],
        "validation": ["000016.jpg"],
        "test": ["000001.jpg", "000002.jpg"],
    }
    assert positives(dataset.splits["train"]) == [{"chair"}, {"car"}, set(CLASSES), set()]
    assert positives(dataset.splits["validation"]) == [{"bicycle", "person"}]
    assert positives(dataset.splits["test"]) == [{"cat"}, set()]
    assert all(split.distributions is None for split in dataset.splits.values())


def test_voc2012_tests_on_val_and_carves_validation_off_train(tmp_path):
    write_voc(tmp_path / "VOC2012", {"train": LISTS["train"], "val": LISTS["val"]})
    dataset = load_voc("voc2012", str(tmp_path), 0)
    assert names_of(dataset.splits["test"]) == ["000016.jpg"]
    carved = names_of(dataset.splits["validation"])
    assert carved and len(carved) < len(LISTS["train"])
    assert sorted(carved + names_of(dataset.splits["train"])) == [f"{image}.jpg" for image in LISTS["train"]]


@pytest.mark.parametrize("data_dir", ["", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_the_folder_may_be_given_at_any_depth(tmp_path, data_dir):
    write_voc(tmp_path / "VOCdevkit" / "VOC2007", LISTS)
    assert len(load_voc("voc2007", str(tmp_path / data_dir), 0).splits["train"]) == 4


def test_a_year_is_not_taken_for_the_other(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    folder = write_voc(tmp_path / "VOCdevkit" / "VOC2007", LISTS)
    for data_dir in (tmp_path, folder):
        with pytest.raises(InputError) as caught:
            load_voc("voc2012", str(data_dir), 0)
        message = str(caught.value)
        assert "VOCdevkit/VOC2012/ with ImageSets/" in message
        assert "`tfds build voc/2012`" in message
        assert str(data_dir) in message
        assert "\n" not in message


@pytest.mark.parametrize("place", ["JPEGImages", "JPEGImages/000005.jpg", "Annotations/000005.xml"])
def test_links_are_followed_and_those_that_lead_nowhere_or_back_are_missing(tmp_path, place):
    folder = write_voc(tmp_path / "VOCdevkit" / "VOC2007", LISTS)
    (folder / place).rename(tmp_path / "elsewhere")
    (folder / place).symlink_to(tmp_path / "elsewhere")
    assert len(load_voc("voc2007", str(tmp_path), 0).splits["train"]) == 4
    for target in ("/nowhere", (folder / place).name):
        (folder / place).unlink()
        (folder / place).symlink_to(target)
        with pytest.raises(InputError, match=r"must be (an existing file|readable)\. .*000005"):
            load_voc("voc2007", str(tmp_path), 0)


BROKEN_LISTS = {
    "absent": (None, r"VOC2007's test\.txt is in an archive of its own\. Received: .*test\.txt \(No such file"),
    "empty": ("\n \n", r"must name at least one\. Received: .*test\.txt, empty"),
    "twice": ("000001\n\n000002\n000001\n", r"listed once\. Received: '000001' in .*test\.txt, lines 1 and 4"),
    "with a label": ("000001\n000002  1\n", r"id of one image\. Received: '000002  1' in .*test\.txt, line 2"),
    "leads elsewhere": ("../000001\n", r"id of one image\. Received: '\.\./000001' in .*test\.txt, line 1"),
    "leads elsewhere on Windows": ("..\\000001\n", r"id of one image\. Received: .*, line 1"),
    "also in train": ("000001\n000007\n", r"in one list\. Received: '000007' in train\.txt and test\.txt of .*Main"),
    "no text": (b"\xff\xfe\x00", r"UTF-8 text\. Received: .*test\.txt"),
    "no annotation": ("000001\n000077\n", r"annotation must be readable\. Received: .*000077\.xml \(No such file"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN_LISTS.values(), ids=BROKEN_LISTS)
def test_what_is_wrong_with_a_list_is_one_line(tmp_path, content, message):
    folder = write_voc(tmp_path / "VOC2007", LISTS)
    path = folder / "ImageSets" / "Main" / "test.txt"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        load_voc("voc2007", str(tmp_path), 0)
    assert "\n" not in str(caught.value)


def test_a_missing_image_is_named(tmp_path):
    folder = write_voc(tmp_path / "VOC2007", LISTS)
    (folder / "JPEGImages" / "000016.jpg").unlink()
    with pytest.raises(InputError, match=r"Received: .*000016\.jpg missing in split 'validation' of dataset 'voc2007'"):
        load_voc("voc2007", str(tmp_path), 0)


BROKEN_ANNOTATIONS = {
    "unknown class": (
        voc_xml("dog", "motorbyke"),
        r"one of the 20 classes of PASCAL VOC \(others go into classes\.txt\)\. Received: 'motorbyke' \(nearest: 'motorbike'\) in .*x\.xml",
    ),
    "class in capitals": (voc_xml("Dog"), r"Received: 'Dog' \(nearest: 'dog'\)"),
    "difficult in a way": (
        voc_xml("<object><name>dog</name><difficult>2</difficult></object>"),
        r"difficult or not, 1 or 0\. Received: '2' in .*x\.xml",
    ),
    "object without name": (voc_xml("<object><difficult>0</difficult></object>"), "Received: '' "),
    "truncated": (voc_xml("dog")[:60], r"annotation must be XML .* Received: .*x\.xml \(.*line 1, column"),
    "empty": ("", "annotation must be XML"),
    "unknown encoding": ('<?xml version="1.0" encoding="klingon"?><annotation/>', "annotation must be XML"),
    "document type": (
        '<!DOCTYPE annotation SYSTEM "file:///etc/passwd"><annotation/>',
        r"without a document type\. Received: .*x\.xml \(<!DOCTYPE annotation>\)",
    ),
}


@pytest.mark.parametrize(("content", "message"), BROKEN_ANNOTATIONS.values(), ids=BROKEN_ANNOTATIONS)
def test_what_is_wrong_with_an_annotation_is_one_line(tmp_path, content, message):
    path = tmp_path / "x.xml"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_annotation(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_entity_bomb_does_not_go_off(tmp_path, encoding):
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<!DOCTYPE annotation [<!ENTITY e0 "boom">{entities}]><annotation>&e9;</annotation>'
    path = tmp_path / "x.xml"
    path.write_bytes(bomb.encode(encoding))
    start = time.process_time()
    with pytest.raises(InputError, match="without a document type"):
        read_annotation(path)
    assert time.process_time() - start < 1


def positives_of(path, *difficult):
    """Classes of an annotation whose objects, the first classes in turn, are marked so."""
    objects = zip(CLASSES, difficult, strict=False)
    path.write_text(
        voc_xml(*(f"<object><name>{name}</name><difficult>{mark}</difficult></object>" for name, mark in objects))
    )
    return np.flatnonzero(read_annotation(path)).tolist()


def test_difficult_objects_are_known_however_they_are_marked(tmp_path):
    assert positives_of(tmp_path / "x.xml", "1", "true", "True", " 1 ", "yes") == []
    assert positives_of(tmp_path / "x.xml", "0", "false", "False", "", "Unspecified", "no") == [0, 1, 2, 3, 4, 5]


OWN_LISTS = {
    "train": {"shop 1.front": ("red pen", "ruler"), "b": (), "shop 0": (("ruler", 1),)},
    "val": {"c": ("ruler",)},
    "test": {"d": ("red pen", ("ruler", 1))},
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "\ufeffruler\r\n\r\nred pen\neraser\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nruler:1,2,3::\nred pen:::\neraser:::a,b\n"),
    ],
)
def test_photos_of_ones_own_with_classes_suffixes_and_ids_of_their_own(tmp_path, name, content, caplog):
    folder = write_voc(tmp_path / "pens", OWN_LISTS)
    (folder / name).write_text(content, encoding="utf-8")
    images = folder / "JPEGImages"
    (images / "b.jpg").rename(images / "b.JPEG")
    (images / "c.jpg").rename(images / "c.png")
    (images / "d.png").write_bytes(b"a mask, say")
    (images / "._d.jpg").write_bytes(b"of a Mac")
    (images / "d.txt").write_bytes(b"a remark")
    dataset = load_voc("voc2007", str(folder), 0)
    assert dataset.label_names == ("ruler", "red pen")
    assert {part: names_of(split) for part, split in dataset.splits.items()} == {
        "train": ["shop 1.front.jpg", "b.JPEG", "shop 0.jpg"],
        "validation": ["c.png"],
        "test": ["d.jpg"],
    }
    assert dataset.splits["train"].labels.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert dataset.splits["test"].labels.tolist() == [[0, 1]]
    assert "voc2007: no object in any image, so left out of the labels: 'eraser'" in caplog.messages


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ruler\nred pen\nruler\n", r"each once\. Received: 'ruler' twice in .*classes\.txt"),
        ("# nothing\n", r"at least one, each once\. Received: none in .*classes\.txt"),
        (
            "ruler\nred pan\n",
            r"one of the 2 listed classes\. Received: 'red pen' \(nearest: 'red pan'\) in .*front\.xml",
        ),
        (b"\xff\xfe\x00", r"list of classes must be UTF-8 text\. Received: .*classes\.txt"),
    ],
)
def test_what_is_wrong_with_a_list_of_classes_is_one_line(tmp_path, content, message):
    folder = write_voc(tmp_path / "pens", OWN_LISTS)
    (folder / "classes.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        load_voc("voc2007", str(folder), 0)
    assert "\n" not in str(caught.value)


def test_an_object_without_the_flag_is_not_difficult(tmp_path):
    path = tmp_path / "x.xml"
    path.write_text(voc_xml("<object><name> dog </name></object>", ("cat", 1)))
    assert [CLASSES[column] for column in np.flatnonzero(read_annotation(path))] == ["dog"]
