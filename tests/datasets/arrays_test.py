import collections
import io
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest

from mulsupcon_tf.datasets.arrays import load_hdf5, load_npz, write_npz
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.utils.errors import InputError
from tests.datasets.splits_by_hash import place, rows_by_split

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(10, 3))
TARGET = np.eye(2, dtype=np.int64)[np.arange(10) % 2]
IMAGES = RNG.integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)


def write_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            file[key] = values


def hdf5_folder(folder, *names, **changes):
    for number, name in enumerate(names or ("my_train.hdf5", "my_val.hdf5", "my_test.h5")):
        write_hdf5(folder / name, **{"feature": FEATURES + 10 * number, "target": TARGET})
    for name, arrays in changes.items():
        write_hdf5(folder / f"my_{name}", **arrays)
    return str(folder)


def test_hdf5_vectors(tmp_path):
    write_hdf5(tmp_path / "set_train.hdf5", feature=FEATURES, target=TARGET)
    write_hdf5(tmp_path / "set_val.hdf5", feature=FEATURES[:4] + 10, target=TARGET[:4].astype(np.float64))
    write_hdf5(tmp_path / "set_TEST.h5", feature=(FEATURES[:6] + 20).astype("f4"), target=TARGET[:6].astype(bool))

    dataset = load_hdf5("hdf5", str(tmp_path), 0)

    assert (dataset.kind, dataset.label_names) == ("vector", ("label_0", "label_1"))
    for name, count, offset in (("train", 10, 0), ("validation", 4, 10), ("test", 6, 20)):
        split = dataset.splits[name]
        np.testing.assert_array_equal(split.inputs, (FEATURES[:count] + offset).astype(np.float32))
        np.testing.assert_array_equal(split.labels, TARGET[:count])
        assert (split.inputs.dtype, split.labels.dtype) == (np.float32, np.uint8)


def test_hdf5_images(tmp_path):
    for number, name in enumerate(("train", "val", "test")):
        write_hdf5(tmp_path / f"{name}.h5", Image=IMAGES + number, target=TARGET)
    dataset = load_hdf5("hdf5", str(tmp_path), 0)
    assert (dataset.kind, dataset.input_shape) == ("image", (6, 5, 3))
    np.testing.assert_array_equal(dataset.splits["train"].inputs, IMAGES)


def test_npz_and_hdf5_files_are_recognised_by_the_same_words(tmp_path):
    """A val file of another spelling is not left out, and files of a file manager are no data."""
    for number, name in enumerate(("latest_train", "dev", "contest-TEST")):
        write_hdf5(tmp_path / f"{name}.h5", feature=FEATURES + 10 * number, target=TARGET)
        np.savez(tmp_path / f"{name}.npz", features=FEATURES + 10 * number, labels=TARGET)
        for suffix in ("h5", "npz"):
            (tmp_path / f"._{name}.{suffix}").write_bytes(bytes(range(24)))
    for name, load in (("hdf5", load_hdf5), ("npz", load_npz)):
        splits = load(name, str(tmp_path), 0).splits
        for number, split in enumerate(("train", "validation", "test")):
            np.testing.assert_array_equal(splits[split].inputs, (FEATURES + 10 * number).astype(np.float32))


def test_trainval_is_used_only_without_train(tmp_path):
    write_hdf5(tmp_path / "coco_trainval.hdf5", feature=FEATURES + 100, target=TARGET)
    folder = hdf5_folder(tmp_path, "coco_val.hdf5", "coco_test.hdf5")  # at 0 and 10

    splits = load_hdf5("hdf5", folder, 0).splits
    assert len(splits["train"]) + len(splits["validation"]) == 10
    assert min(splits["train"].inputs.min(), splits["validation"].inputs.min()) > 50, "val lies inside trainval"

    write_hdf5(tmp_path / "coco_train.hdf5", feature=FEATURES - 10, target=TARGET)
    splits = load_hdf5("hdf5", folder, 0).splits
    assert (len(splits["train"]), len(splits["validation"])) == (10, 10)
    assert splits["train"].inputs.max() < 0


def test_hdf5_links_are_not_followed(tmp_path):
    outside = tmp_path / "outside.bin"
    folder = tmp_path / "data"
    folder.mkdir()
    hdf5_folder(folder)
    write_hdf5(outside, secret=FEATURES)
    with h5py.File(folder / "my_train.hdf5", "r+") as file:
        del file["feature"]
        file["feature"] = h5py.ExternalLink(str(outside), "secret")
    with pytest.raises(InputError, match=r"my_train.hdf5 must hold an array 'feature'. Received: target"):
        load_hdf5("hdf5", str(folder), 0)

    raw = tmp_path / "raw.bin"
    raw.write_bytes(FEATURES.tobytes())
    with h5py.File(folder / "my_train.hdf5", "r+") as file:
        del file["feature"]
        file.create_dataset("feature", FEATURES.shape, FEATURES.dtype, external=[(str(raw), 0, FEATURES.nbytes)])
    with pytest.raises(InputError, match=r"my_train.hdf5 must hold an array 'feature'"):
        load_hdf5("hdf5", str(folder), 0)


def bad(value, row, column):
    changed = FEATURES.copy()
    changed[row, column] = value
    return changed


BAD_HDF5 = {
    "no array": ({"target": TARGET}, "must hold an array 'feature'. Received: target"),
    "no labels": ({"feature": FEATURES}, "must hold an array 'target'. Received: feature"),
    "row counts": ({"feature": FEATURES[:9], "target": TARGET}, "9 rows in 'feature' of .*, 10 rows of labels"),
    "one dimension": (
        {"feature": FEATURES[:, 0], "target": TARGET},
        r"2 dimensions. Received: float64 of shape \(10,\)",
    ),
    "labels of one dimension": ({"feature": FEATURES, "target": TARGET[:, 0]}, r"int64 of shape \(10,\) in 'target'"),
    "text": ({"feature": np.full((10, 3), b"x"), "target": TARGET}, "must hold numbers"),
    "label 2": ({"feature": FEATURES, "target": TARGET * 2}, "Received: 2 in 'target' of .*, row 0, column 0"),
    "label one half": ({"feature": FEATURES, "target": TARGET / 2}, "Received: 0.5 in 'target'"),
    "label -2": ({"feature": FEATURES, "target": TARGET.astype(int) * -2}, "Received: -2 in 'target'"),
    "NaN": ({"feature": bad(np.nan, 7, 2), "target": TARGET}, "Received: nan in 'feature' of .*, row 7, column 2"),
    "infinity": ({"feature": bad(-np.inf, 1, 0), "target": TARGET}, "Received: -inf in .*, row 1, column 0"),
    "beyond float32": ({"feature": bad(1e300, 3, 1), "target": TARGET}, "Received: inf in .*, row 3, column 1"),
    "float images": ({"Image": IMAGES / 255, "target": TARGET}, r"must be uint8 .*float64 \(10, 6, 5, 3\)"),
    "flat images": ({"Image": IMAGES[..., 0], "target": TARGET}, r"Received: uint8 \(10, 6, 5\)"),
    "channels first": ({"Image": IMAGES.transpose(0, 3, 1, 2), "target": TARGET}, r"\(10, 3, 6, 5\)"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD_HDF5.values(), ids=BAD_HDF5)
def test_broken_hdf5(tmp_path, arrays, message):
    folder = hdf5_folder(tmp_path, **{"train.hdf5": arrays})
    with pytest.raises(InputError, match=message) as caught:
        load_hdf5("hdf5", folder, 0)
    assert "my_train.hdf5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_splits_must_agree(tmp_path):
    folder = hdf5_folder(tmp_path, **{"test.h5": {"feature": FEATURES[:, :2] + 20, "target": TARGET}})
    with pytest.raises(InputError, match=r"\(3,\). Received: float32 \(10, 2\) in split 'test'"):
        load_hdf5("hdf5", folder, 0)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_truncated_files(tmp_path, keep):
    big = {"feature": np.zeros((300, 40)), "target": np.ones((300, 1))}
    folder = hdf5_folder(tmp_path, **{"train.hdf5": big})
    for name in ("train", "test"):
        np.savez(tmp_path / f"{name}.npz", features=big["feature"], labels=big["target"])
    for path, load in ((tmp_path / "my_train.hdf5", load_hdf5), (tmp_path / "train.npz", load_npz)):
        content = path.read_bytes()
        path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
        with pytest.raises(InputError, match=rf"must be .*readable.*Received: .*{path.name}") as caught:
            load("mine", folder, 0)
        assert "\n" not in str(caught.value)


PETABYTES = (2**41, 128)  # of float32


def test_a_small_file_that_declares_petabytes_is_one_line(tmp_path):
    folder = hdf5_folder(tmp_path)
    for shape in (PETABYTES, (2**31, 3), (2**62, 8)):
        with h5py.File(tmp_path / "my_train.hdf5", "w") as file:
            file.create_dataset("feature", shape, np.float32, chunks=(1000, 1))
            file["target"] = TARGET
        with pytest.raises(
            InputError, match=r"must be readable. Received: .*my_train.hdf5 \('feature' declares \d+ bytes"
        ):
            load_hdf5("hdf5", folder, 0)

    for shape in (PETABYTES, (2**62, 8), (2**80, 1), (-1, 3)):
        np.savez(tmp_path / "test.npz", features=FEATURES, labels=TARGET)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(tmp_path / "train.npz", "w") as archive:
            archive.writestr("features.npy", header.getvalue() + bytes(100))
        with pytest.raises(InputError, match=r"must be a readable archive of arrays. Received: .*train.npz") as caught:
            load_npz("npz", folder, 0)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [("x_train", "y_train", "x_test"), ("train", "val", "test")])
def test_a_file_that_holds_all_splits_is_refused_with_what_is_expected(tmp_path, names):
    np.savez(tmp_path / "train.npz", **dict.fromkeys(names, FEATURES))
    np.savez(tmp_path / "test.npz", features=FEATURES, labels=TARGET)
    with pytest.raises(
        InputError, match=rf"arrays of one split, 'features' .*Received: '{names[0]}', .* in .*train.npz"
    ):
        load_npz("npz", str(tmp_path), 0)
    with h5py.File(tmp_path / "train.h5", "w") as file:
        for name in names:
            file.create_group(name)["feature"] = FEATURES
    write_hdf5(tmp_path / "test.h5", feature=FEATURES, target=TARGET)
    with pytest.raises(InputError, match=r"arrays of one split, 'feature' or .*Received: '.*' in .*train.h5"):
        load_hdf5("hdf5", str(tmp_path), 0)


def moved(arrays):
    """The same with other samples."""
    return {
        key: values + values.dtype.type(20) if key in ("features", "images") and values.dtype.kind in "fu" else values
        for key, values in arrays.items()
    }


def npz_folder(folder, **train):
    np.savez(folder / "train.npz", **train)
    np.savez(folder / "test.npz", **moved(train))
    return str(folder)


SHARES = np.array([[0.75, 0.25], [0, 1]], np.float64)[np.arange(10) % 2]


def test_npz_with_everything(tmp_path):
    arrays = {"images": IMAGES[..., :1], "labels": TARGET, "label_names": ["cat", "dog"], "distributions": SHARES}
    np.savez_compressed(
        tmp_path / "validation.npz", **{key: values[:2] for key, values in moved(moved(arrays)).items()}
    )

    dataset = load_npz("npz", npz_folder(tmp_path, **arrays), 0)

    assert (dataset.kind, dataset.label_names, dataset.input_shape) == ("image", ("cat", "dog"), (6, 5, 1))
    assert len(dataset.splits["validation"]) == 2
    np.testing.assert_array_equal(dataset.splits["train"].inputs, IMAGES[..., :1])
    np.testing.assert_array_equal(dataset.splits["train"].labels, TARGET)
    np.testing.assert_array_equal(dataset.splits["train"].distributions, SHARES.astype(np.float32))


def test_npz_with_the_least(tmp_path):
    dataset = load_npz("npz", npz_folder(tmp_path, features=FEATURES, labels=TARGET == 1), 0)
    assert (dataset.kind, dataset.label_names) == ("vector", ("label_0", "label_1"))
    assert len(dataset.splits["train"]) + len(dataset.splits["validation"]) == len(dataset.splits["test"]) == 10
    assert dataset.splits["train"].distributions is None


def vectors_and_images(count):
    """Rows that do not depend on how many there are."""
    for key, draw in (
        ("features", lambda rng: rng.normal(size=3)),
        ("images", lambda rng: rng.integers(0, 256, (4, 4, 3))),
    ):
        rows = [draw(np.random.default_rng(number)) for number in range(count)]
        yield key, np.array(rows, np.uint8 if key == "images" else np.float64)


@pytest.mark.parametrize("kind", ["features", "images"])
@pytest.mark.parametrize("load", [load_npz, load_hdf5])
def test_rows_that_are_added_or_stand_in_another_order_move_no_other(tmp_path, load, kind):
    def places(count, order):
        rows = dict(vectors_and_images(count))[kind][order]
        labels = np.ones((count, 2), np.int64)
        if load is load_npz:
            np.savez(tmp_path / "train.npz", **{kind: rows, "labels": labels})
            np.savez(tmp_path / "test.npz", **{kind: rows[:3], "labels": labels[:3]})
        else:
            key = {"features": "feature", "images": "Image"}[kind]
            write_hdf5(tmp_path / "train.h5", **{key: rows, "target": labels})
            write_hdf5(tmp_path / "test.h5", **{key: rows[:3], "target": labels[:3]})
        dataset = load("mine", str(tmp_path), 0)
        del dataset.splits["test"]
        return rows_by_split(dataset), rows

    before, rows = places(52, np.arange(52))
    after, _ = places(60, np.random.default_rng(0).permutation(60))
    assert len(before) == 52 and len(after) == 60
    assert before.items() <= after.items()
    stored = rows.astype("<f4") if kind == "features" else rows
    for row in stored:
        assert before[str(row.ravel().tolist())] == place(row.tobytes(), parts=["validation"])


GOOD_NPZ = {"features": FEATURES, "labels": TARGET}
BAD_NPZ = {
    "no array": ({"x": FEATURES, "labels": TARGET}, "must hold an array 'features'. Received: labels"),
    "pickle": ({**GOOD_NPZ, "features": np.array([{}] * 10)}, "must be a readable archive .*[Oo]bject arrays"),
    "row counts": ({**GOOD_NPZ, "labels": TARGET[:8]}, "10 rows in 'features' of .*, 8 rows of labels"),
    "NaN": ({**GOOD_NPZ, "features": bad(np.nan, 0, 1)}, "Received: nan in 'features' of .*, row 0, column 1"),
    "names": ({**GOOD_NPZ, "label_names": ["cat"]}, r"must be 2 texts.*\(1,\)"),
    "numbers as names": ({**GOOD_NPZ, "label_names": [1, 2]}, "must be 2 texts"),
    "same names": ({**GOOD_NPZ, "label_names": ["cat", "cat"]}, "'cat' twice"),
    "distribution shape": ({**GOOD_NPZ, "distributions": SHARES[:, :1]}, r"\(10, 2\). Received: \(10, 1\)"),
    "distribution sum": ({**GOOD_NPZ, "distributions": SHARES * 2}, "Received: sum 2, .*row 0"),
    "distribution off the labels": (
        {**GOOD_NPZ, "distributions": 1 - TARGET},
        r"Received: mass on other labels alone in .*.npz, row \d",
    ),
    "distribution NaN": ({**GOOD_NPZ, "distributions": SHARES * np.nan}, "Received: nan in 'distributions'"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD_NPZ.values(), ids=BAD_NPZ)
def test_broken_npz(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message) as caught:
        load_npz("npz", npz_folder(tmp_path, **arrays), 0)
    assert "\n" not in str(caught.value)


def test_features_are_written_block_by_block_without_being_held(tmp_path):
    blocks, rows = 40, 1000
    tracemalloc.start()
    features = (np.full((rows, 300), number, np.float32) for number in range(blocks))
    write_npz(tmp_path / "train.npz", features, (blocks * rows, 300), labels=np.ones((blocks * rows, 1), np.uint8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6 < blocks * rows * 300 * 4 / 5
    with np.load(tmp_path / "train.npz") as file:
        np.testing.assert_array_equal(file["features"][:, 299], np.repeat(np.arange(blocks), rows))
        assert file["labels"].shape == (blocks * rows, 1)


def test_label_names_must_be_the_same_in_all_files(tmp_path):
    folder = npz_folder(tmp_path, **GOOD_NPZ)
    np.savez(tmp_path / "test.npz", features=-FEATURES, labels=TARGET, label_names=["cat", "dog"])
    assert load_npz("npz", folder, 0).label_names == ("cat", "dog")
    np.savez(tmp_path / "train.npz", **GOOD_NPZ, label_names=["dog", "cat"])
    with pytest.raises(
        InputError, match=r"Received: 'dog' in .*train.npz and 'cat' in .*test.npz for column 0 \(from 0\)$"
    ):
        load_npz("npz", folder, 0)


def test_a_damaged_header_of_an_array_is_one_line(tmp_path):
    folder = npz_folder(tmp_path, **GOOD_NPZ)
    with zipfile.ZipFile(tmp_path / "train.npz", "w") as file:
        file.writestr("features.npy", b"\x93NUMPY\x01\x00\x04\x00(((\n")
    with pytest.raises(InputError, match=r"must be a readable archive of arrays. Received: .*train.npz") as caught:
        load_npz("npz", folder, 0)
    assert "\n" not in str(caught.value)


def test_a_bare_array_is_no_npz(tmp_path):
    folder = npz_folder(tmp_path, **GOOD_NPZ)
    with (tmp_path / "train.npz").open("wb") as file:
        np.save(file, FEATURES)
    with pytest.raises(InputError, match=r"must be a readable archive of arrays. Received: .*train.npz"):
        load_npz("npz", folder, 0)


# The HDF5 file's label columns, as the ARFF file names them.
HDF5_ORDER = [1, 3, 7, 6, 4, 2, 14, 12, 8, 9, 5, 10, 13, 11]


def test_yeast_is_the_same_from_arff_and_from_hdf5(shared_data):
    """MulSupCon carved its validation split from Mulan's train split, and orders the labels otherwise."""
    ours = load_dataset("yeast", data_dir=str(shared_data / "mulan"))
    theirs = load_dataset("hdf5", data_dir=str(shared_data / "mulsupcon_hdf5"))
    order = [ours.label_names.index(f"Class{number}") for number in HDF5_ORDER]

    def rows(dataset, split, columns):
        part = dataset.splits[split]
        return [(*map(float, x), *map(int, y)) for x, y in zip(part.inputs, part.labels[:, columns], strict=True)]

    same = list(range(14))
    assert rows(ours, "test", order) == rows(theirs, "test", same)
    ours_train = collections.Counter(rows(ours, "train", order) + rows(ours, "validation", order))
    assert ours_train == collections.Counter(rows(theirs, "train", same) + rows(theirs, "validation", same))


@pytest.mark.parametrize("name", ["npz", "hdf5"])
def test_labels_of_plus_and_minus_one_are_refused(tmp_path, name):
    labels = 2 * TARGET - 1
    if name == "npz":
        npz_folder(tmp_path, features=FEATURES, labels=labels)
    else:
        hdf5_folder(tmp_path)
        for path in tmp_path.iterdir():
            with h5py.File(path, "r+") as file:
                file["target"][...] = labels
    with pytest.raises(
        InputError, match=r"write 0, not -1 .* Received: never 0 in dataset '\w+': 'label_0', 'label_1'$"
    ):
        load_dataset(name, str(tmp_path))
