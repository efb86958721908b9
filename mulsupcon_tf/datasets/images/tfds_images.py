"""Images that TensorFlow Datasets (TFDS) has prepared, as files that can be read at random.

TFDS packs its samples into record files. They are read once, no image is decoded, and the original files are written
to `<TFDS folder>/mulsupcon_tf/<name>/` with an index of their labels; later runs read the index alone. That takes the
space of the images once more. Nothing is downloaded here: preparing a dataset is the work of `tfds build`.
"""

import contextlib
import dataclasses
import hashlib
import logging
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import filelock
import numpy as np

from mulsupcon_tf.datasets.base import ImageFiles
from mulsupcon_tf.datasets.checking import listed, path_inside
from mulsupcon_tf.datasets.images.image_objects import ImageObjects
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError

_logger = logging.getLogger("mulsupcon_tf")
_INFO = "dataset_info.json"
_INDEX = "index.npz"
_VERSION = re.compile(r"\d+\.\d+\.\d+")  # a preparation that was cut short has another ending


@dataclasses.dataclass(frozen=True)
class PreparedImages:
    """What to take from a dataset of TFDS; its samples have `image` and `image/filename`.

    Attributes:
        dataset: "name/config".
        splits: TFDS split for each of ours.
        label_feature: keys that lead to the class labels, for their names.
        objects_of: gives labels and areas, `[n]` each, of one sample as NumPy arrays.
        official_layout: what `--data_dir` may hold instead, for the message where neither is there.
    """

    dataset: str
    splits: Mapping[str, str]
    label_feature: tuple[str, ...]
    objects_of: Callable[[Mapping[str, Any]], tuple[np.ndarray, np.ndarray]]
    official_layout: str


def read_prepared(
    name: str, wanted: PreparedImages, data_dir: pathlib.Path | None
) -> tuple[tuple[str, ...], dict[str, ImageObjects]]:
    """Reads a dataset that TFDS prepared in `data_dir`; where that is None or empty, in TFDS's own folder.

    That folder is `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`. It is not looked into where `data_dir` holds anything: the
    user's own images in a layout that is not known are no reason to train on the official ones.

    Args:
        name: of our dataset, and of the folder for its image files.
        wanted: what to read.
        data_dir: an existing folder, or None.

    Returns:
        The label names, and the images of each split in the order of their names.

    Raises:
        InputError: the dataset is not prepared, cannot be read, or its images cannot be written.
    """
    default = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or pathlib.Path.home() / "tensorflow_datasets").expanduser()
    content = [] if data_dir is None else [path.name for path in data_dir.iterdir() if not path.name.startswith(".")]
    root = data_dir if data_dir is not None and content else default
    source = _latest_version(root / wanted.dataset)
    if source is None:
        holds = f"which holds {listed(sorted(content), np.arange(len(content)))}"
        raise InputError(
            f"--data_dir must hold {wanted.official_layout} for --dataset={name}, or {wanted.dataset} as prepared by "
            f"`tfds build {wanted.dataset}`, which may also be in $TFDS_DATA_DIR or ~/tensorflow_datasets where --data_dir is left out. "
            f"Received: --data_dir={data_dir}, {holds if content else f'and no {default / wanted.dataset}'}"
        )
    folder = root / "mulsupcon_tf" / name
    fingerprint = hashlib.sha256((source / _INFO).read_bytes()).hexdigest()
    found = _read_index(folder, wanted, fingerprint)
    if found is None:
        with _writing_alone(folder):
            found = _read_index(folder, wanted, fingerprint)  # another process may have been at it until now
            if found is None:
                _logger.info("%s: writing the images of %s to %s, once", name, source, folder)
                _write_files(folder, wanted, source, fingerprint)
                found = _read_index(folder, wanted, fingerprint)
    if found is None:
        raise InputError(f"an index that was just written must be readable. Received: {folder / _INDEX}")
    return found


def _latest_version(folder: pathlib.Path) -> pathlib.Path | None:
    versions = [path for path in folder.glob("*") if _VERSION.fullmatch(path.name) and (path / _INFO).is_file()]
    return max(versions, key=lambda path: [int(number) for number in path.name.split(".")], default=None)


def _read_index(
    folder: pathlib.Path, wanted: PreparedImages, fingerprint: str
) -> tuple[tuple[str, ...], dict[str, ImageObjects]] | None:
    """None where there is no index, or one of other data, or a damaged one."""
    try:
        with np.load(folder / _INDEX, allow_pickle=False) as index:
            if str(index["fingerprint"]) != fingerprint:
                return None
            parts = {
                part: ImageObjects(
                    ImageFiles.below(folder / part, index[f"{part}/files"]),
                    *(index[f"{part}/{field}"] for field in ("rows", "columns", "areas")),
                )
                for part in wanted.splits
            }
            return tuple(str(label) for label in index["label_names"]), parts
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


@contextlib.contextmanager
def _writing_alone(folder: pathlib.Path) -> Iterator[None]:
    """Lets one process at a time write the folder, the others wait; clears away what a killed one has left of it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_name(f".{folder.name}.lock")):
            atomic_file.remove_partial(folder.parent, folder.name)
            yield
    except OSError as error:
        raise InputError(
            f"the images of TFDS must be written as files once, beside them. "
            f"Received: {folder} ({error.strerror or error})"
        ) from None


def _write_files(folder: pathlib.Path, wanted: PreparedImages, source: pathlib.Path, fingerprint: str) -> None:
    with atomic_file.replacing_folder(folder) as partial:
        contents = _copy_images(partial, wanted, source)
        np.savez(partial / _INDEX, fingerprint=fingerprint, **contents)
        os.sync()  # all files at once, which is much faster than one by one


def _copy_images(folder: pathlib.Path, wanted: PreparedImages, source: pathlib.Path) -> dict[str, Any]:
    import tensorflow_datasets as tfds  # takes seconds, since it imports TensorFlow

    try:
        builder = tfds.builder_from_directory(source)
        feature = builder.info.features
        for key in wanted.label_feature:
            feature = feature[key]
        contents: dict[str, Any] = {"label_names": np.array(feature.names, str)}
        for part, split in wanted.splits.items():
            (folder / part).mkdir()
            samples = builder.as_dataset(
                split=split,
                decoders={"image": tfds.decode.SkipDecoding()},
                read_config=tfds.ReadConfig(try_autocache=False),  # read once
                shuffle_files=False,
            )
            files, objects = [], []
            for sample in tfds.as_numpy(samples):
                file = sample["image/filename"].decode()
                path = path_inside(folder / part, file, f"{source}, split {split!r}")
                with path.open("xb") as stream:  # two of one name are an error
                    stream.write(sample["image"])
                files.append(file)
                objects.append(wanted.objects_of(sample))
            contents |= {f"{part}/{field}": values for field, values in _sorted_table(files, objects).items()}
    except (InputError, OSError):
        raise
    except Exception as error:  # whatever TFDS and TensorFlow raise where record files are damaged or of another kind
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{wanted.dataset} must be readable as `tfds build {wanted.dataset}` leaves it. "
            f"Received: {source} ({type(error).__name__}: {reason})"
        ) from error
    return contents


def _sorted_table(files: list[str], objects: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """The columns of the index for one split, images in the order of their names."""
    order = sorted(range(len(files)), key=files.__getitem__)
    counts = [len(objects[position][0]) for position in order]
    return {
        "files": np.array([files[position] for position in order], str),
        "rows": np.repeat(np.arange(len(order)), counts),
        "columns": np.concatenate([np.zeros(0, np.int64), *(objects[position][0] for position in order)]),
        "areas": np.concatenate([np.zeros(0), *(objects[position][1] for position in order)]),
    }
