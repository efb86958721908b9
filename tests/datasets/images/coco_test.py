import json
import logging
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest

from mulsupcon_tf.datasets.base import ImageFiles
from mulsupcon_tf.datasets.images import coco
from mulsupcon_tf.datasets.images.coco import load_coco, read_instances
from mulsupcon_tf.utils.errors import InputError
from tests.datasets.splits_by_hash import place, rows_by_split
from tests.helpers.image_folders import CROWD, TRAIN, VAL, annotation, instances, write_coco, write_jpeg


def names_of(split):
    return [pathlib.Path(path).name for path in split.inputs.paths]


def test_the_parts_and_the_order_of_images_and_categories(tmp_path):
    dataset = load_coco("coco", str(write_coco(tmp_path)), 0)
    assert (dataset.name, dataset.kind, dataset.on_disk) == ("coco", "image", True)
    assert dataset.label_names == ("person", "train", "toothbrush")  # by id: 1, 7, 90
    assert names_of(dataset.splits["test"]) == ["val_0021.jpg", "val_0022.jpg"]
    train, validation = names_of(dataset.splits["train"]), names_of(dataset.splits["validation"])
    assert train and validation
    assert sorted(train + validation) == [f"train_{number:04d}.jpg" for number in range(11, 16)]
    assert all(PIL.Image.open(path).size == (12, 10) for path in dataset.splits["train"].inputs.paths)


def test_crowds_count_and_images_without_annotations_stay_in(tmp_path):
    folder = write_coco(tmp_path)
    names, objects = read_instances(folder / "annotations/instances_train2017.json", folder / "train2017")
    assert list(names.items()) == [(1, "person"), (7, "train"), (90, "toothbrush")]
    np.testing.assert_array_equal(objects.labels(3), [[1, 1, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]])
    shares = [[0.75, 0.25, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]]
    np.testing.assert_allclose(objects.area_shares(3), shares)


def test_2014_is_taken_where_both_years_are_whole(tmp_path, caplog):
    write_coco(tmp_path, "2017")
    (tmp_path / "val2014").mkdir()
    assert "val2017" in load_coco("coco", str(tmp_path), 0).splits["test"].inputs.paths[0]
    write_coco(tmp_path, "2014")
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        assert "val2014" in load_coco("coco", str(tmp_path), 0).splits["test"].inputs.paths[0]
    assert f"coco: {tmp_path} holds 2014 and 2017; 2014 is taken" in caplog.messages


def test_categories_that_nobody_annotated_are_left_out_with_a_warning(tmp_path, caplog):
    categories = {0: "things", 1: "person", 7: "train", 90: "toothbrush"}
    dataset = load_coco("coco", str(write_coco(tmp_path, categories=categories)), 0)
    assert dataset.label_names == ("person", "train", "toothbrush")
    assert dataset.splits["test"].labels.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert "coco: no object in any image, so left out of the labels: 'things'" in caplog.messages


def test_images_may_be_links_and_lie_in_folders_below(tmp_path):
    folder = write_coco(tmp_path / "coco")
    image = folder / "val2017" / "val_0021.jpg"
    shutil.move(image, tmp_path / "elsewhere.jpg")
    image.symlink_to(tmp_path / "elsewhere.jpg")
    path = folder / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace("val_0022.jpg", "below/x.jpg"))
    write_jpeg(folder / "val2017" / "below" / "x.jpg")
    assert names_of(load_coco("coco", str(folder), 0).splits["test"]) == ["x.jpg", "val_0021.jpg"]


@pytest.mark.parametrize("place", ["val2017/val_0021.jpg", "annotations/instances_val2017.json", "val2017"])
@pytest.mark.parametrize("target", ["/nowhere", "itself"])
def test_links_that_lead_nowhere_or_back_are_missing(tmp_path, place, target):
    path = write_coco(tmp_path / "coco") / place
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(target.replace("itself", path.name))
    with pytest.raises(InputError, match=r"must be an existing file\. .*0021.jpg missing|must hold .*no .*val2017"):
        load_coco("coco", str(tmp_path / "coco"), 0)


def test_photos_that_are_added_or_moved_with_their_folder_move_no_other(tmp_path):
    def places(folder, count):
        content = instances(range(count), [annotation(image, 1, 1.0) for image in range(count)], "train")
        path = write_coco(folder) / "annotations" / "instances_train2017.json"
        path.write_text(json.dumps(content))
        for image in content["images"]:
            write_jpeg(folder / "train2017" / image["file_name"])
        dataset = load_coco("coco", str(folder), 0)
        return {file: split for file, split in rows_by_split(dataset).items() if file.startswith("train_")}

    before, after = places(tmp_path / "before", 52), places(tmp_path / "after", 60)
    assert len(before) == 52 and len(after) == 60
    assert before.items() <= after.items()
    assert before == {file: place(file, parts=["validation"]) for file in before}


def changed(**changes):
    return json.dumps(instances((21, 22), VAL) | changes)


def with_image(**changes):
    content = instances((21, 22), VAL)
    return json.dumps(content | {"images": [content["images"][0], content["images"][1] | changes]})


def category(id_, name):
    return {"id": id_, "name": name}


BROKEN = {
    "truncated": (changed()[:300], r"must be JSON\. Received: .*val2017\.json \(.*line 1 column \d+"),
    "empty": ("", r"must be JSON\. .*line 1 column 1"),
    "no UTF-8": (b'{"images": "\xff"}', "must be JSON.*can't decode byte 0xff in position 12"),
    "nested without end": ("[" * 200_000, "must be JSON.*recursion"),
    "a list": ("[]", "must have the lists images, annotations, categories. Received: no images"),
    "captions only": (json.dumps({"images": [], "annotations": []}), "Received: no categories in"),
    "annotations no list": (changed(annotations={}), "Received: no annotations in"),
    "image without id": (with_image(id=None), r"entry of images must have id, file_name.* none for id in entry 1 \("),
    "image without name": (with_image(file_name=None), "Received: none for file_name in entry 1"),
    "image id of another kind": (with_image(id=[1]), r"must have an id and a file name\. Received: \(\[1\], "),
    "two images of one id": (with_image(id=22), "ids of images must be distinct. Received: 22 twice"),
    "category without name": (changed(categories=[{"id": 1}]), "categories must have id, name.*entry 0"),
    "category with id as text": (changed(categories=[category("1", "x")]), r"Received: \('1', 'x'\)"),
    "two categories of one id": (changed(categories=[category(1, "cat"), category(1, "dog")]), r"\(1, 'dog'\), known"),
    "no category": (changed(annotations=[{"image_id": 21, "area": 1}]), "Received: none for category_id in entry 0"),
    "nothing": (changed(annotations=[{"bbox": [1, 2]}]), "none for image_id, category_id in entry 0"),
    "number for an annotation": (changed(annotations=[3]), "none for image_id, category_id in entry 0"),
    "unknown image": (
        changed(annotations=[annotation(21, 1, 1), annotation(99, 1, 1)]),
        r"image_id must be the id of one of the images\. Received: 99 in annotation 1 \(from 0\) of .*val2017\.json",
    ),
    "image id a list": (changed(annotations=[annotation([21], 1, 1)]), r"Received: \[21\] in annotation 0"),
    "unknown category": (
        changed(annotations=[annotation(21, 2, 1)]),
        "category_id must be the id of one of the categories. Received: 2 in annotation 0",
    ),
    "negative area": (changed(annotations=[annotation(21, 1, -1)]), "area must be a number, 0 or more. Received: -1"),
    "area in words": (changed(annotations=[annotation(21, 1, "big")]), "area must be a number, 0 or more. .* 'big'"),
    "area NaN": (changed(annotations=[annotation(21, 1, float("nan"))]), "Received: nan in annotation 0"),
    "other categories": (
        changed(categories=[category(1, "cat")], annotations=[annotation(21, 1, 1)]),
        "must list the same categories. Received: id 1, 'cat', not in both",
    ),
    "image is absent": (
        with_image(file_name="x.jpg"),
        "every image that is listed must be an existing file. Received: .*/x.jpg",
    ),
    "image above": (with_image(file_name="../x.jpg"), r"path inside .*/val2017\. Received: '\.\./x\.jpg' in .*json"),
    "image above, for Windows": (with_image(file_name="..\\x.jpg"), "must be named by a path inside"),
    "image on another machine": (with_image(file_name="\\\\server\\x.jpg"), "must be named by a path inside"),
    "image above, hidden": (with_image(file_name="a/../../x.jpg"), "must be named by a path inside"),
    "image anywhere": (with_image(file_name="/etc/passwd"), "must be named by a path inside .* '/etc/passwd'"),
    "image without a name": (with_image(file_name=""), "must be named by a path inside .* ''"),
    "image over two lines": (with_image(file_name="a\nb"), r"without control characters. Received: 'a\\nb' in .*json"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, content, message):
    path = write_coco(tmp_path) / "annotations" / "instances_val2017.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        load_coco("coco", str(tmp_path), 0)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value) or "missing in split 'test'" in str(caught.value)


@pytest.mark.parametrize("piece", ["train2017", "val2017", "annotations/instances_val2017.json"])
def test_a_missing_piece_of_the_layout_is_named(tmp_path, piece):
    write_coco(tmp_path)
    (tmp_path / piece).rename(tmp_path / "gone")
    with pytest.raises(InputError) as caught:
        load_coco("coco", str(tmp_path), 0)
    assert str(caught.value).endswith(f"Received: no {piece} in {tmp_path}")


def test_an_annotation_file_that_is_a_folder_is_one_line(tmp_path):
    path = write_coco(tmp_path) / "annotations" / "instances_val2017.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"must be readable\. Received: .*json .Is a directory"):
        load_coco("coco", str(tmp_path), 0)


def test_outlines_are_dropped_while_parsing():
    content = instances((21, 22), [*VAL, annotation(22, 7, 1.5, **CROWD)])
    kept = json.loads(json.dumps(content), object_hook=coco._reduced)
    values = [(entry.image_id, entry.category_id, entry.area) for entry in kept["annotations"]]
    assert values == [(21, 90, 1.0), (21, 7, 3.0), (22, 1, 8.0), (22, 7, 1.5)]
    assert [(entry.id, entry.file_name) for entry in kept["images"]] == [(22, "val_0022.jpg"), (21, "val_0021.jpg")]
    assert "0.5" not in str(kept)  # of the outlines
    assert kept["info"] is None


def rewritten(folder, change):
    """Applies a function to the content of both lists of `write_coco`."""
    for part in ("train", "val"):
        path = folder / "annotations" / f"instances_{part}2017.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return str(folder)


def test_a_file_under_several_ids_is_one_sample_with_the_objects_of_all(tmp_path, caplog):
    folder = write_coco(tmp_path)
    path = folder / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    for id_, name in ((77, "val_0022.jpg"), (78, "./val_0022.jpg")):
        content["images"].append({"id": id_, "file_name": name})
    content["annotations"] += [annotation(77, 7, 1.0), annotation(78, 7, 1.0)]
    path.write_text(json.dumps(content))
    test = load_coco("coco", str(folder), 0).splits["test"]
    assert names_of(test) == ["val_0021.jpg", "val_0022.jpg"]
    assert test.labels.tolist() == [[0, 1, 1], [1, 1, 0]]
    np.testing.assert_allclose(test.distributions, [[0, 0.75, 0.25], [0.8, 0.2, 0]])
    (message,) = [record.getMessage() for record in caplog.records if "several ids" in record.getMessage()]
    assert message.startswith(f"{path}: ")
    assert message.endswith(": 1")


@pytest.mark.parametrize("without", [{"area": None}, {}])
def test_without_areas_there_are_labels_and_no_distribution(tmp_path, without, caplog):
    whole = load_coco("coco", str(write_coco(tmp_path)), 0)

    def drop_one(content):
        one = content["annotations"][0]
        del one["area"]
        one |= without

    folder = rewritten(tmp_path, drop_one)
    dataset = load_coco("coco", folder, 0)
    for name, split in dataset.splits.items():
        np.testing.assert_array_equal(split.labels, whole.splits[name].labels)
        assert split.distributions is None
    assert "not every object has an area, so no label distribution is known" in caplog.text


def test_a_root_category_of_the_same_name_that_no_object_is_of_is_left_out(tmp_path, caplog):
    folder = rewritten(
        write_coco(tmp_path),
        lambda content: content["categories"].insert(0, category(0, "person") | {"supercategory": "none"}),
    )
    dataset = load_coco("coco", folder, 0)
    assert dataset.label_names == ("person", "train", "toothbrush")
    assert dataset.splits["test"].labels.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert "left out of the labels" not in caplog.text


def test_two_categories_of_one_name_that_both_have_objects_are_refused(tmp_path):
    def rename(content):
        content["categories"] = [category(1, "cat"), category(7, "dog"), category(90, "cat")]

    folder = rewritten(write_coco(tmp_path), rename)
    with pytest.raises(InputError, match=r"distinct names\. Received: 'cat' of the ids 1 and 90 in .*train2017\.json"):
        load_coco("coco", folder, 0)


def by_file(dataset):
    """Labels and distribution of each picture, by its file name, over all splits."""
    return {
        name: (labels, distribution)
        for split in dataset.splits.values()
        for name, labels, distribution in zip(names_of(split), split.labels, split.distributions, strict=True)
    }


def test_a_byte_order_mark_backslashes_and_keys_of_other_lists_are_read(tmp_path):
    plain = load_coco("coco", str(write_coco(tmp_path / "plain")), 0)
    folder = write_coco(tmp_path / "odd")

    def change(content):
        for image in content["images"]:
            image |= {
                "image_id": image["id"],
                "name": "a photo",
                "annotations": [],
                "file_name": f"below\\{image['file_name']}",
            }
        for each in content["annotations"]:
            each |= {"name": "an object", "file_name": "elsewhere.jpg"}

    rewritten(folder, change)
    for part in ("train", "val"):
        below = folder / f"{part}2017" / "below"
        below.mkdir()
        for image in (folder / f"{part}2017").glob("*.jpg"):
            image.rename(below / image.name)
        path = folder / "annotations" / f"instances_{part}2017.json"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    odd = load_coco("coco", str(folder), 0)
    assert odd.label_names == plain.label_names
    expected, found = by_file(plain), by_file(odd)  # another folder is another name, which may be in another split
    assert found.keys() == expected.keys() and len(found) > 5
    for name, (labels, distribution) in expected.items():
        np.testing.assert_array_equal(found[name][0], labels)
        np.testing.assert_array_equal(found[name][1], distribution)


def write_roboflow(folder, parts=("train", "valid", "test")):
    """Each part has the five images of `TRAIN`, under names of its own."""
    for part in parts:
        content = instances(range(11, 16), TRAIN, part)
        (folder / part).mkdir(parents=True)
        (folder / part / "_annotations.coco.json").write_text(json.dumps(content))
        for image in content["images"]:
            write_jpeg(folder / part / image["file_name"], image["id"])
    return folder


def test_the_folders_of_roboflow_are_the_splits_of_their_names(tmp_path):
    dataset = load_coco("coco", str(write_roboflow(tmp_path)), 0)
    assert dataset.label_names == ("person", "train", "toothbrush")
    for name, own in (("train", "train"), ("validation", "valid"), ("test", "test")):
        assert names_of(dataset.splits[name]) == [f"{own}_{number:04d}.jpg" for number in range(11, 16)]
        assert dataset.splits[name].labels.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]]
        np.testing.assert_allclose(dataset.splits[name].distributions[0], [0.75, 0.25, 0])


@pytest.mark.parametrize("own", ["val", "validation"])
def test_the_validation_of_roboflows_layout_may_have_its_other_names(tmp_path, own):
    dataset = load_coco("coco", str(write_roboflow(tmp_path, ("train", own, "test"))), 0)
    assert names_of(dataset.splits["validation"]) == [f"{own}_{number:04d}.jpg" for number in range(11, 16)]
    assert len(dataset.splits["train"]) == 5


@pytest.mark.parametrize("folders", [("train", "holdout"), ("train", "val", "valid"), ("Train", "test")])
def test_a_folder_of_no_split_or_a_second_one_of_a_split_is_not_passed_over(tmp_path, folders):
    with pytest.raises(InputError) as caught:
        load_coco("coco", str(write_roboflow(tmp_path, folders)), 0)
    assert str(caught.value) == (
        "the folders with _annotations.coco.json must be train, valid (or val, or validation) and test, one a split. "
        f"Received: {', '.join(sorted(folders))} in {tmp_path}"
    )


def test_what_roboflow_did_not_divide_is_drawn_from_train(tmp_path):
    dataset = load_coco("coco", str(write_roboflow(tmp_path / "a", ("train",))), 0)
    names = [name for split in dataset.splits.values() for name in names_of(split)]
    assert sorted(names) == [f"train_{number:04d}.jpg" for number in range(11, 16)]
    write_roboflow(tmp_path / "b", ("valid", "test"))
    with pytest.raises(InputError, match=r"must hold train/_annotations\.coco\.json .* Received: only valid, test in"):
        load_coco("coco", str(tmp_path / "b"), 0)


def test_the_original_images_and_their_files(shared_data):
    folder = shared_data / "coco"
    dataset = load_coco("coco", str(folder), 0)
    assert len(dataset.splits["train"]) + len(dataset.splits["validation"]) == len(dataset.splits["test"]) == 128
    for name in ("train", "validation"):
        assert {place(file, parts=["validation"]) for file in names_of(dataset.splits[name])} == {name}
    assert dataset.label_names[:3] == ("person", "bicycle", "car")
    unlabelled = [(~dataset.splits[name].labels.any(axis=1)).sum() for name in ("train", "validation", "test")]
    assert (unlabelled[0] + unlabelled[1], unlabelled[2]) == (2, 0)
    content = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    test = dataset.splits["test"]
    assert isinstance(test.inputs, ImageFiles)
    for image in content["images"]:
        row = test.inputs.paths.tolist().index(str(folder / "val2017" / image["file_name"]))
        own = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        total = sum(entry["area"] for entry in own)
        for column, name in enumerate(dataset.label_names):
            areas = [entry["area"] for entry in own if names[entry["category_id"]] == name]
            assert test.labels[row, column] == (len(areas) > 0)
            assert test.distributions[row, column] == pytest.approx(sum(areas) / total, abs=1e-6)
