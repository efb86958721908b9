"""HDF5 and npz files, whole, of wrong arrays and with damaged bytes, against h5py and NumPy."""

import io
import pathlib
import random
import struct
import zipfile

import h5py
import numpy as np
import pytest

from mulsupcon_tf.datasets.registry import load_dataset
from tests.campaign.inputs import SCALES, campaign, damaged, reading_of
from tests.datasets.splits_by_hash import place

NAMES = {
    "train": ("train", "a-train", "Train_2", "latest_train", "yeastTrain", "festival.training"),
    "validation": ("val", "dev", "x_valid", "Validation"),
    "test": ("test", "a_Testing", "latest-test"),
}
DTYPES = ("float32", "float64", ">f4", "float16", "int64", "uint8", "bool")
HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 9), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<U999999999', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<f4', 'shape': (3,), }",
    "{'descr': 'zzz', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3, }",
    "(" * 5000,
    "-" * 9000 + "1",
    "'''",
    "{}",
    "\0",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (True, 4L), }",
)

FAULTS = ("row", "transposed", "flat", "text", "NaN", "negative", "huge", "empty", "complex", "moved", "structured")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)


def case(random_: random.Random, num_rows: int = 0):
    """Arrays of each split: vectors or images, labels, and what npz may hold beside them."""
    numbers = np.random.default_rng(random_.randrange(2**32))
    images, num_labels = random_.random() < 0.3, random_.randint(1, 4)
    shape = (random_.randint(1, 5), 4, random_.choice((1, 3))) if images else (random_.randint(1, 6),)
    dtype = random_.choice(DTYPES[:4]) if not images else "uint8"
    parts = {}
    for part in ("train", "test", *(("validation",) if random_.random() < 0.5 else ())):
        rows = num_rows or random_.randint(20, 40)
        inputs = numbers.integers(0, 256, (rows, *shape)) if images else numbers.normal(size=(rows, *shape))
        labels = numbers.integers(0, 2, (rows, num_labels))
        labels[:num_labels] |= np.eye(num_labels, dtype=int)
        parts[part] = {"inputs": inputs.astype(dtype), "labels": labels.astype(random_.choice(DTYPES))}
    further = {}
    if random_.random() < 0.5:
        further["label_names"] = np.array(random_.sample(("cat", "hot dog", "Übung", "日本", "2", "x"), num_labels))
    if random_.random() < 0.5:
        for arrays in parts.values():
            labels = np.float64(arrays["labels"])
            mass = labels * numbers.uniform(0.1, 1, labels.shape)
            arrays["distributions"] = mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-9)
    return images, parts, further


def as_known(labels):
    """What a reader makes of labels: -1 is unknown as NaN is."""
    values = np.float64(labels)
    return np.where(values == -1, np.nan, values)


def expected(images, parts, further, *, npz: bool):
    """Label names, and of each split inputs, labels and distributions; with the seed's draw where there is no validation."""
    names = [f"label_{index}" for index in range(parts["train"]["labels"].shape[1])]
    if npz and further:
        names = further["label_names"].tolist()
    splits = {}
    for part, arrays in parts.items():
        inputs = arrays["inputs"] if images else arrays["inputs"].astype(np.float32)
        shares = np.float32(arrays["distributions"]) if npz and "distributions" in arrays else None
        splits[part] = [inputs, as_known(arrays["labels"]), shares]
    if "validation" not in splits:
        where = np.array([place(row.tobytes(), parts=("validation",)) for row in splits["train"][0]])
        whole = splits["train"]
        for part in ("validation", "train"):
            splits[part] = [None if each is None else each[where == part] for each in whole]
    return names, splits


def require_equal(dataset, names, splits):
    assert list(dataset.label_names) == names
    if any(len(labels) == 0 for _, labels, _ in splits.values()):
        return  # one of so few samples was moved
    for part, (inputs, labels, shares) in splits.items():
        np.testing.assert_array_equal(dataset.splits[part].inputs, inputs, err_msg=part)
        np.testing.assert_array_equal(dataset.splits[part].labels, labels, err_msg=part)
        if shares is None:
            assert dataset.splits[part].distributions is None
        else:
            np.testing.assert_array_equal(dataset.splits[part].distributions, shares, err_msg=part)


def emptied(folder: pathlib.Path) -> pathlib.Path:
    for path in folder.iterdir():
        path.unlink()
    return folder


def write(folder, kind, made, random_):
    """Writes the files of what `case` made, and gives the path of each split's."""
    images, parts, further = made
    paths = {}
    for part, arrays in parts.items():
        stem = random_.choice(NAMES[part])
        if kind == "npz":
            paths[part] = folder / f"{stem}.npz"
            names = {"inputs": "images" if images else "features"}
            content = further | {names.get(key, key): values for key, values in arrays.items()}
            random_.choice((np.savez, np.savez_compressed))(paths[part], **content)
        else:
            paths[part] = folder / f"{stem}{random_.choice(('.h5', '.hdf5'))}"
            options = random_.choice(
                ({}, {"compression": "gzip"}, {"chunks": True, "shuffle": True}, {"fletcher32": True})
            )
            with h5py.File(paths[part], "w") as file:
                file.create_dataset("Image" if images else "feature", data=arrays["inputs"], **options)
                file.create_dataset("target", data=arrays["labels"], **options)
    return paths


def read_independently(kind: str, paths: dict):
    """The arrays of the files as their own libraries give them."""
    parts, further, images = {}, {}, False
    for part, path in paths.items():
        if kind == "npz":
            with np.load(path, allow_pickle=False) as file:
                wanted = ("features", "images", "labels", "label_names", "distributions")
                content = {name: file[name] for name in file.files if name in wanted}
        else:
            with h5py.File(path) as file:
                content = {name: file[name][()] for name in ("feature", "Image", "target") if name in file}
                content["labels"] = content.pop("target")
        images = "images" in content or "Image" in content
        inputs = next(content[name] for name in ("images", "features", "Image", "feature") if name in content)
        parts[part] = {"inputs": inputs, "labels": content["labels"]}
        if "distributions" in content:
            parts[part]["distributions"] = content["distributions"]
        if "label_names" in content:
            assert further.setdefault("label_names", content["label_names"]).tolist() == content["label_names"].tolist()
    return images, parts, further


@pytest.mark.parametrize("times", SCALES)
@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_files_are_read_as_they_were_written(tmp_path, kind, times):
    def attempt(random_):
        images, parts, further = case(random_)
        write(emptied(tmp_path), kind, (images, parts, further), random_)
        dataset, refusal = reading_of(lambda: load_dataset(kind, tmp_path))
        assert refusal is None, refusal
        require_equal(dataset, *expected(images, parts, further, npz=kind == "npz"))

    campaign(kind, 60 * times, attempt)


@pytest.mark.parametrize("times", SCALES)
@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_damaged_files_are_refused_or_read_as_they_stand(tmp_path, kind, times):
    def attempt(random_):
        images, parts, further = case(random_)
        accident = random_.choice(("bytes", "bytes", "array", "array", *(("header", "names") if kind == "npz" else ())))
        if accident == "names" and further:
            parts["test"]["label_names"] = np.roll(further["label_names"], 1)
        if accident == "array":
            wrong = random_.choice(list(parts))
            of_split = random_.choice((parts[wrong], further)) if further and kind == "npz" else parts[wrong]
            key = random_.choice(list(of_split))
            of_split[key], how = spoilt(of_split[key], random_)
            accident = f"{key} {how}"
        paths = write(emptied(tmp_path), kind, (images, parts, further), random_)
        path = random_.choice(list(paths.values()))
        if accident == "bytes":
            path.write_bytes(damaged(path.read_bytes(), random_))
        if accident == "header":
            path.write_bytes(with_header(path, random_.choice(HEADERS), random_))
        dataset, refusal = reading_of(lambda: load_dataset(kind, tmp_path))
        if refusal is None:
            try:
                require_equal(dataset, *expected(*read_independently(kind, paths), npz=kind == "npz"))
            except Exception as error:
                raise AssertionError(f"{accident} {type(error).__name__} {error}") from None

    campaign(f"damaged {kind}", 90 * times, attempt)


def spoilt(values: np.ndarray, random_: random.Random):
    """An array with a fault, and which."""
    how = random_.choice(FAULTS)
    changed = values
    if how == "row":
        changed = values[:-1]
    elif how == "transposed":
        changed = values.T
    elif how == "flat":
        changed = values.ravel()
    elif how == "text":
        changed = np.zeros(values.shape, "S8")
    elif how in ("NaN", "negative", "huge") and values.dtype.kind in "fiub":
        changed = values.astype(np.float64)
        changed.flat[random_.randrange(changed.size)] = {"NaN": np.nan, "negative": -1, "huge": 1e300}[how]
    elif how == "empty":
        changed = values[:0]
    elif how == "complex" and values.dtype.kind in "fiub":
        changed = values.astype(complex)
    elif how == "moved":
        changed = np.roll(values, 1, axis=-1)
    elif how == "structured":
        changed = np.zeros(values.shape, [("a", "f4")])
    return changed, how


def with_header(path: pathlib.Path, header: str, random_: random.Random) -> bytes:
    """The archive, one array of which has another header."""
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(stream, "w", random_.choice(METHODS)) as new:
        names = old.namelist()
        wrong = random_.choice(names)
        for name in names:
            content = old.read(name)
            if name == wrong:
                text = (header + "\n").encode("latin-1", "replace")
                version = random_.choice((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"))
                length = struct.pack("<H" if version == b"\x01\x00" else "<I", min(len(text), 65535))
                content = b"\x93NUMPY" + version + length + text + content[-40:]
            new.writestr(name, content)
    return stream.getvalue()
