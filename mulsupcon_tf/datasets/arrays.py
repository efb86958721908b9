"""The user's own arrays: HDF5 files as MulSupCon has them, and NumPy's `.npz`.

`--dataset=hdf5 --data_dir=DIR`: one `.hdf5` or `.h5` file per split, told by `train`, `val` and `test` in its name,
with `feature` `[N, F]` or `Image` `[N, H, W, 3]` uint8, and `target` `[N, C]`. A `trainval` file is used where there is
no train file; validation is then carved from it even where a val file lies beside it: it holds those samples too.

`--dataset=npz --data_dir=DIR`: `train.npz`, `test.npz` and, if you have it, `validation.npz`, with `features` `[N, F]`
or `images` `[N, H, W, 1 or 3]` uint8, `labels` `[N, C]` and, where known, `label_names` `[C]` and `distributions`
`[N, C]`.
"""

import pathlib
import zipfile
import zlib
from collections.abc import Iterable, Mapping

import numpy as np

from mulsupcon_tf.datasets.base import InputKind, MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import existing_folder, require_binary, require_distributions, require_finite
from mulsupcon_tf.datasets.splitting import finish_dataset
from mulsupcon_tf.utils.errors import InputError


def load_hdf5(name: str, data_dir: str | None, seed: int) -> MultiLabelDataset:
    """Loads `--dataset=hdf5`; labels are called label_0, label_1, ...

    Raises:
        InputError: train or test is missing, two files claim one split, a file cannot be read or holds other arrays
            than the module says, or their values break the rules of `checking.check_dataset`.
    """
    folder = existing_folder(data_dir, name)
    paths = _hdf5_files(folder)
    arrays = {part: _read_hdf5(path) for part, path in paths.items()}
    return _dataset(name, paths, arrays, {"vector": "feature", "image": "Image", "labels": "target"}, seed)


def load_npz(name: str, data_dir: str | None, seed: int) -> MultiLabelDataset:
    """Loads `--dataset=npz`; labels without names are called label_0, label_1, ...

    Raises:
        InputError: train or test is missing, a file cannot be read or holds other arrays than the module says, or
            their values break the rules of `checking.check_dataset`.
    """
    folder = existing_folder(data_dir, name)
    paths = {part: folder / f"{part}.npz" for part in ("train", "validation", "test")}
    paths = {part: path for part, path in paths.items() if part != "validation" or path.exists()}
    arrays = {part: _read_npz(path) for part, path in paths.items()}
    return _dataset(name, paths, arrays, {"vector": "features", "image": "images", "labels": "labels"}, seed)


def _hdf5_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    found: dict[str, list[pathlib.Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".hdf5", ".h5"):
            stem = path.stem.lower()
            roles = ["trainval"] if "trainval" in stem else [role for role in ("train", "val", "test") if role in stem]
            for role in roles:
                found.setdefault(role, []).append(path)
    train = "train" if "train" in found else "trainval"
    wanted = {"train": train, "test": "test"}
    if train == "train" and "val" in found:
        wanted["validation"] = "val"
    for role in wanted.values():
        files = [path.name for path in found.get(role, [])]
        if len(files) != 1:
            raise InputError(
                f"--data_dir must hold one .hdf5 or .h5 file with {role!r} in its name. "
                f"Received: {', '.join(files) or 'none'} in {folder}"
            )
    return {part: found[role][0] for part, role in wanted.items()}


def _read_hdf5(path: pathlib.Path) -> dict[str, np.ndarray]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            arrays = {}
            for key in file:
                # Links and external storage could read any file of this machine into the data.
                if not isinstance(file.get(key, getlink=True), h5py.HardLink):
                    continue
                item = file[key]
                if isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual:
                    arrays[key] = item
            return {key: arrays[key][()] for key in ("feature", "Image", "target") if key in arrays}
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"an HDF5 file must be readable. Received: {path} ({_first_line(error)})") from None


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = ("features", "images", "labels", "label_names", "distributions")
            return {key: file[key] for key in wanted if key in file.files}
    except (OSError, EOFError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"an .npz file must be a readable archive of arrays. Received: {path} ({_first_line(error)})"
        ) from None


def _dataset(
    name: str,
    paths: Mapping[str, pathlib.Path],
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    keys: Mapping[str, str],
    seed: int,
) -> MultiLabelDataset:
    """Turns what the files hold into a dataset; `keys` says how a format calls vectors, images and labels."""
    kind: InputKind = "image" if keys["image"] in arrays["train"] else "vector"
    parts = {}
    for part, path in paths.items():
        found = arrays[part]
        _require_keys(found, (keys[kind], keys["labels"]), path)
        labels = _labels(found[keys["labels"]], f"{keys['labels']!r} of {path}")
        where = f"{keys[kind]!r} of {path}"
        inputs = _images(found[keys[kind]], where) if kind == "image" else _vectors(found[keys[kind]], where)
        _require_rows(inputs, labels, where)
        distributions = found.get("distributions")
        if distributions is not None:
            distributions = _vectors(distributions, f"'distributions' of {path}")
            if distributions.shape != labels.shape:
                raise InputError(
                    f"distributions must have the shape of the labels, {labels.shape}. "
                    f"Received: {distributions.shape} in {path}"
                )
            require_distributions(distributions, str(path))
        parts[part] = Split(inputs, labels, distributions)
    return finish_dataset(name, kind, _label_names(arrays["train"], parts["train"], paths["train"]), parts, seed)


def _require_keys(found: Iterable[str], required: tuple[str, ...], path: pathlib.Path) -> None:
    for key in required:
        if key not in found:
            raise InputError(f"{path} must hold an array {key!r}. Received: {', '.join(sorted(found)) or 'none'}")


def _require_rows(inputs: np.ndarray, labels: np.ndarray, where: str) -> None:
    if len(inputs) != len(labels):
        raise InputError(
            f"inputs and labels must have one row for each sample. "
            f"Received: {len(inputs)} rows in {where}, {len(labels)} rows of labels"
        )


def _vectors(values: np.ndarray, where: str) -> np.ndarray:
    """`[N, F]` numbers as finite float32."""
    _require_numbers(values, 2, where)
    with np.errstate(over="ignore"):
        vectors = values.astype(np.float32)
    require_finite(vectors, where)
    return vectors


def _images(values: np.ndarray, where: str) -> np.ndarray:
    """`[N, H, W, 1 or 3]` uint8, as given."""
    if values.dtype != np.uint8 or values.ndim != 4 or values.shape[3] not in (1, 3):
        raise InputError(
            f"images must be uint8 of shape [N, height, width, 1 or 3]. "
            f"Received: {values.dtype} {values.shape} in {where}"
        )
    return values


def _labels(values: np.ndarray, where: str) -> np.ndarray:
    """`[N, C]` zeros and ones of any number type as uint8."""
    _require_numbers(values, 2, where)
    require_binary(values, where)
    return values.astype(np.uint8)


def _require_numbers(values: np.ndarray, dimensions: int, where: str) -> None:
    if values.dtype.kind not in "fiub" or values.ndim != dimensions:
        raise InputError(
            f"an array must hold numbers in {dimensions} dimensions. "
            f"Received: {values.dtype} of shape {values.shape} in {where}"
        )


def _label_names(found: Mapping[str, np.ndarray], train: Split, path: pathlib.Path) -> tuple[str, ...]:
    num_labels = train.labels.shape[1]
    if "label_names" not in found:
        return tuple(f"label_{index}" for index in range(num_labels))
    names = found["label_names"]
    if names.shape != (num_labels,) or names.dtype.kind != "U":
        raise InputError(
            f"label_names must be {num_labels} texts, one a column of the labels. "
            f"Received: {names.dtype} of shape {names.shape} in {path}"
        )
    return tuple(names.tolist())


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
