"""The builders of TFDS prepare COCO and VOC here from small local folders; only their downloads are left out."""

import logging
import pathlib
import shutil
import threading

import filelock
import numpy as np
import pytest

from mulsupcon_tf.datasets.images.coco import load_coco
from mulsupcon_tf.datasets.images.tfds_images import read_prepared
from mulsupcon_tf.datasets.images.voc import CLASSES, load_voc
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.image_folders import CATEGORIES, write_coco, write_voc

VOC_LISTS = {
    "train": {"000007": ("car", ("dog", 1)), "000009": CLASSES, "000012": ()},
    "val": {"000016": ("bicycle", "person", "person")},
    "test": {"000001": (("cat", 1), "cat"), "000002": (("train", 1),)},
}


def prepare(dataset, root, split_arguments):
    """Lets the builder of TFDS write its record files, from local folders in place of downloads."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(dataset, data_dir=str(root))
    builder._split_generators = lambda download_manager: [
        tfds.core.SplitGenerator(name=name, gen_kwargs=arguments) for name, arguments in split_arguments.items()
    ]
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return pathlib.Path(builder.data_dir)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """The same images in COCO layout and as TFDS prepared them: two folders."""
    from tensorflow_datasets.object_detection.coco import AnnotationType

    # TFDS wants 80 categories, most have no object here, and keeps the order of the file: by id in the original.
    categories = dict(sorted(CATEGORIES.items())) | {100 + number: f"other {number}" for number in range(77)}
    official = write_coco(tmp_path_factory.mktemp("official"), "2014", categories)
    root = tmp_path_factory.mktemp("tfds")
    common = {"image_dir": str(official), "annotation_dir": str(official), "panoptic_dir": None}
    bounding_boxes = common | {"annotation_type": AnnotationType.BBOXES}
    prepare(
        "coco/2014",
        root,
        {
            "train": bounding_boxes | {"split_name": "train2014"},
            "validation": bounding_boxes | {"split_name": "val2014"},
        },
    )
    return official, root


def assert_same(dataset, expected):
    assert dataset.label_names == expected.label_names
    for name, split in expected.splits.items():
        found = dataset.splits[name]
        np.testing.assert_array_equal(found.labels, split.labels)
        for path, other in zip(found.inputs.paths, split.inputs.paths, strict=True):
            assert pathlib.Path(path).name == pathlib.Path(other).name
            assert pathlib.Path(path).read_bytes() == pathlib.Path(other).read_bytes()
        if split.distributions is None:
            assert found.distributions is None
        else:
            np.testing.assert_allclose(found.distributions, split.distributions, atol=1e-6)


def test_coco_is_the_same_from_tfds_as_from_its_folder_and_written_once(coco, caplog):
    official, root = coco
    expected = load_coco("coco", str(official), 0)
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        assert_same(load_coco("coco", str(root), 0), expected)
    assert any("once" in message for message in caplog.messages)
    folder = root / "mulsupcon_tf" / "coco"
    assert sorted(path.name for path in folder.iterdir()) == ["index.npz", "test", "train"]
    assert sorted(path.name for path in folder.parent.iterdir()) == [".coco.lock", "coco"]
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    caplog.clear()
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        assert_same(load_coco("coco", str(root), 0), expected)
    assert not any("once" in message for message in caplog.messages)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


@pytest.mark.parametrize("fault", ["other data", "damaged", "gone"])
def test_an_index_of_other_data_or_a_damaged_one_is_written_anew(coco, fault):
    official, root = coco
    load_coco("coco", str(root), 0)
    index = root / "mulsupcon_tf" / "coco" / "index.npz"
    if fault == "other data":
        content = dict(np.load(index)) | {"fingerprint": "of another version"}
        np.savez(index, **content)
    elif fault == "damaged":
        index.write_bytes(index.read_bytes()[:-100])
    else:
        index.unlink()
    stray = index.parent / "train" / "stray.jpg"
    stray.touch()
    assert_same(load_coco("coco", str(root), 0), load_coco("coco", str(official), 0))
    assert not stray.exists()


def test_what_a_killed_process_left_is_cleared_away_and_two_never_write_at_once(coco):
    official, root = coco
    folder = root / "mulsupcon_tf"
    shutil.rmtree(folder / "coco", ignore_errors=True)
    (folder / ".partial-77-coco" / "train").mkdir(parents=True)
    (folder / ".partial-77-coco" / "train" / "half.jpg").touch()
    (folder / ".partial-78-other-coco").mkdir()
    with filelock.FileLock(folder / ".coco.lock"):
        waiting = threading.Thread(target=load_coco, args=("coco", str(root), 0))
        waiting.start()
        waiting.join(0.5)
        assert (folder / ".partial-77-coco").exists()
    waiting.join()
    assert {path.name for path in folder.iterdir()} == {".coco.lock", "coco", ".partial-78-other-coco"}
    (folder / ".partial-78-other-coco").rmdir()
    assert_same(load_coco("coco", str(root), 0), load_coco("coco", str(official), 0))


def test_the_folder_of_tfds_is_found_by_its_variable(coco, monkeypatch, tmp_path):
    official, root = coco
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".DS_Store").touch()
    for data_dir in (None, str(tmp_path / "empty")):
        assert_same(load_coco("coco", data_dir, 0), load_coco("coco", str(official), 0))


def test_voc_is_the_same_from_tfds_as_from_its_folder(tmp_path):
    write_voc(tmp_path / "VOCdevkit" / "VOC2007", VOC_LISTS)
    common = {"data_path": str(tmp_path)}
    prepare(
        "voc/2007",
        tmp_path / "tfds",
        {
            name: common | {"set_name": part}
            for name, part in {"train": "train", "validation": "val", "test": "test"}.items()
        },
    )
    assert_same(load_voc("voc2007", str(tmp_path / "tfds"), 0), load_voc("voc2007", str(tmp_path), 0))


def test_damaged_record_files_are_one_line_and_leave_nothing_behind(tmp_path):
    write_voc(tmp_path / "VOCdevkit" / "VOC2012", {"train": VOC_LISTS["train"], "val": VOC_LISTS["val"]})
    common = {"data_path": str(tmp_path)}
    root = tmp_path / "tfds"
    folder = prepare(
        "voc/2012", root, {"train": common | {"set_name": "train"}, "validation": common | {"set_name": "val"}}
    )
    for record in folder.glob("*train.tfrecord*"):
        record.write_bytes(record.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"voc/2012 must be readable .* Received: .*2012/.* \(DataLossError") as caught:
        load_voc("voc2012", str(root), 0)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (root / "mulsupcon_tf").iterdir()] == [".voc2012.lock"]


@pytest.mark.parametrize("version", [None, "1.1.0.incompleteABC", "1.1.0"])
def test_where_neither_is_there_one_line_names_both_ways(tmp_path, monkeypatch, version):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    if version is not None:
        (tmp_path / "tfds" / "coco" / "2014" / version).mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for data_dir in (None, str(tmp_path / "empty")):
        with pytest.raises(InputError) as caught:
            load_coco("coco", data_dir, 0)
        message = str(caught.value)
        assert "annotations/instances_train2014.json" in message
        assert "`tfds build coco/2014`" in message
        assert f"--data_dir={data_dir}, and no {tmp_path / 'tfds' / 'coco/2014'}" in message
        assert "\n" not in message


@pytest.mark.parametrize(("name", "load"), [("coco", load_coco), ("voc2007", load_voc)])
def test_photos_in_another_layout_are_not_passed_over_for_the_official_ones(coco, tmp_path, monkeypatch, name, load):
    """CVAT calls its list `instances_default.json`; TFDS's own folder happens to hold the official dataset."""
    _, root = coco
    shutil.copytree(root / "coco", tmp_path / "tfds" / "coco")
    shutil.copytree(root / "coco" / "2014", tmp_path / "tfds" / "voc" / "2007")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    own = tmp_path / "own"
    (own / "annotations").mkdir(parents=True)
    (own / "annotations" / "instances_default.json").write_text("{}")
    (own / "images").mkdir()
    with pytest.raises(InputError, match=rf"Received: --data_dir={own}, which holds 'annotations', 'images'$"):
        load(name, str(own), 0)


def test_a_folder_that_cannot_be_written_is_one_line(coco, monkeypatch):
    _, root = coco
    (root / "mulsupcon_tf" / "elsewhere").write_text("a file in the way")
    from mulsupcon_tf.datasets.images import coco as module

    with pytest.raises(InputError, match=r"must be written as files once, beside them\. Received: .*elsewhere"):
        read_prepared("elsewhere", module._TFDS, root)
