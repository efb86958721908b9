"""The user's own arrays: HDF5 files as MulSupCon has them, and NumPy's `.npz`.

One file per split, recognised by a word of its name, see `split_files`:

- `--dataset=hdf5 --data_dir=DIR`: `.hdf5` or `.h5` with `feature` `[N, F]` or `Image` `[N, H, W, 3]` uint8, and
  `target` `[N, C]`.
- `--dataset=npz --data_dir=DIR`: `.npz` with `features` `[N, F]` or `images` `[N, H, W, 1 or 3]` uint8, `labels`
  `[N, C]` and, where known, `label_names` `[C]`, the same in all files, and `distributions` `[N, C]`. Other arrays in
  it are passed over.

A label that is NaN or -1 is unknown.
"""

import io
import pathlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mulsupcon_tf.datasets.base import InputKind, MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import (
    existing_folder,
    listed,
    require_binary,
    require_distributions,
    require_finite,
)
from mulsupcon_tf.datasets.label_lists import partial_labels
from mulsupcon_tf.datasets.split_files import find_split_files
from mulsupcon_tf.datasets.splitting import finish_dataset
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError

# A few bytes can declare an array of petabytes. HDF5's own compression makes at most about 1,000 bytes of one.
_LARGE = 2**30
_MOST_PER_BYTE = 1100


def load_hdf5(name: str, data_dir: str | None, seed: int) -> MultiLabelDataset:
    """Loads `--dataset=hdf5`; labels are called label_0, label_1, ...

    Raises:
        InputError: a file cannot be read or holds other arrays than the module says, or their values break the rules of
            `checking.check_dataset`; or see `split_files.find_split_files`.
    """
    paths = find_split_files(existing_folder(data_dir, name), (".hdf5", ".h5"))
    arrays = {part: _read_hdf5(path) for part, path in paths.items()}
    return _dataset(name, paths, arrays, {"vector": "feature", "image": "Image", "labels": "target"}, seed)


def load_npz(name: str, data_dir: str | None, seed: int) -> MultiLabelDataset:
    """Loads `--dataset=npz`; labels without names are called label_0, label_1, ...

    Raises:
        InputError: a file cannot be read or holds other arrays than the module says, or their values break the rules of
            `checking.check_dataset`; or see `split_files.find_split_files`.
    """
    paths = find_split_files(existing_folder(data_dir, name), (".npz",))
    arrays = {part: _read_npz(path) for part, path in paths.items()}
    return _dataset(name, paths, arrays, {"vector": "features", "image": "images", "labels": "labels"}, seed)


def write_npz(path: pathlib.Path, features: Iterable[np.ndarray], shape: tuple[int, int], **arrays: np.ndarray) -> None:
    """Writes the file of one split, whole or not at all, without holding its features in memory.

    Args:
        path: ends in `.npz`.
        features: blocks of rows `[n, F]`, N rows together.
        shape: `(N, F)`.
        **arrays: what else the file holds, no objects.
    """
    with atomic_file.replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open("features.npy", "w", force_zip64=True) as member:
            member.write(npy_header(shape))
            for block in features:
                member.write(block.astype("<f4").tobytes())
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def npy_header(shape: tuple[int, ...]) -> bytes:
    """How a `.npy` file of this shape begins, whose numbers follow as little-endian float32."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _read_hdf5(path: pathlib.Path) -> dict[str, np.ndarray]:
    import h5py

    try:
        with h5py.File(atomic_file.regular_file(path), "r") as file:
            arrays = {}
            for key in ("feature", "Image", "target"):
                # Links and external storage could read any file of this machine into the data.
                if not isinstance(file.get(key, getlink=True), h5py.HardLink):
                    continue
                item = file[key]
                if isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual:
                    stored = item.id.get_storage_size()
                    if item.nbytes > max(_LARGE, _MOST_PER_BYTE * stored):
                        raise ValueError(f"{key!r} declares {item.nbytes} bytes and has {stored}")
                    arrays[key] = item[()]
            names = list(file)
    except Exception as error:  # damage may surface anywhere in the reader
        raise InputError(f"an HDF5 file must be readable. Received: {path} ({_first_line(error)})") from None
    return _require_any(arrays, names, path, "'feature' or 'Image', and 'target'")


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(atomic_file.regular_file(path), allow_pickle=False) as file:
            wanted = ("features", "images", "labels", "label_names", "distributions")
            arrays, names = {key: file[key] for key in wanted if key in file.files}, file.files
    except Exception as error:  # damage may surface anywhere: in NumPy, in the archive, in the text of a header
        raise InputError(
            f"an .npz file must be a readable archive of arrays. Received: {path} ({_first_line(error)})"
        ) from None
    return _require_any(arrays, names, path, "'features' or 'images', and 'labels'")


def _require_any(
    arrays: dict[str, np.ndarray], names: Sequence[str], path: pathlib.Path, wanted: str
) -> dict[str, np.ndarray]:
    """The arrays; a file without any of them is of another layout, such as one with all splits in it."""
    if not arrays:
        raise InputError(
            f"a file must hold the arrays of one split, {wanted}. "
            f"Received: {listed(names, np.arange(len(names))) or 'none'} in {path}"
        )
    return arrays


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
            require_distributions(distributions, str(path), labels)
        parts[part] = Split(inputs, labels, distributions)
    return finish_dataset(name, kind, _label_names(arrays, parts["train"].labels.shape[1], paths), parts, seed)


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
    with np.errstate(over="ignore", invalid="ignore"):
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
    """`[N, C]` zeros and ones of any number type as uint8; with NaN or -1 among them as float32, NaN for both."""
    _require_numbers(values, 2, where)
    unknown = (values != values) | (values == -1)  # noqa: PLR0124 NaN alone is not itself
    require_binary(np.where(unknown, 0, values), where)
    return partial_labels(values, unknown)


def _require_numbers(values: np.ndarray, dimensions: int, where: str) -> None:
    if values.dtype.kind not in "fiub" or values.ndim != dimensions:
        raise InputError(
            f"an array must hold numbers in {dimensions} dimensions. "
            f"Received: {values.dtype} of shape {values.shape} in {where}"
        )


def _label_names(
    arrays: Mapping[str, Mapping[str, np.ndarray]], num_labels: int, paths: Mapping[str, pathlib.Path]
) -> tuple[str, ...]:
    """The names that the files give, all of which must give the same; label_0, label_1, ... where none gives any."""
    names = {
        paths[part]: _names_in(found["label_names"], num_labels, paths[part])
        for part, found in arrays.items()
        if "label_names" in found
    }
    if not names:
        return tuple(f"label_{index}" for index in range(num_labels))
    (first, ours), *others = names.items()
    for second, theirs in others:
        if ours != theirs:
            column = next(column for column in range(num_labels) if ours[column] != theirs[column])
            raise InputError(
                f"label_names must be the same in all files. "
                f"Received: {ours[column]!r} in {first} and {theirs[column]!r} in {second} for column {column} (from 0)"
            )
    return ours


def _names_in(names: np.ndarray, num_labels: int, path: pathlib.Path) -> tuple[str, ...]:
    if names.shape != (num_labels,) or names.dtype.kind != "U":
        raise InputError(
            f"label_names must be {num_labels} texts, one a column of the labels. "
            f"Received: {names.dtype} of shape {names.shape} in {path}"
        )
    return tuple(names.tolist())


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
