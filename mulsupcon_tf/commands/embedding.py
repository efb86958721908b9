"""Embeddings of a split by a finished run, or features of all splits by a network without one, written to files."""

import contextlib
import logging
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from mulsupcon_tf.commands.feature_extraction import Extractor, digest, identity
from mulsupcon_tf.commands.finished_run import open_run
from mulsupcon_tf.config.defaults import default_image_size
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.program_flags import DEFAULT_SPLIT, EmbedConfig
from mulsupcon_tf.datasets.arrays import write_npz
from mulsupcon_tf.datasets.base import SPLIT_NAMES, ImageFiles, MultiLabelDataset
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.input_pipeline.image_files import without_unreadable
from mulsupcon_tf.models.backbone_weights import weights_hash
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import in_bytes

_BAD_IMAGES = "bad_images.txt"
_OUTPUT = "a new or an empty folder, or one with what the same command has written so far of the same images"
_WORDS = {"made_of": "images", "label_names": "labels"}  # what is different where an array of a file is
_logger = logging.getLogger("mulsupcon_tf")


def export_embeddings(config: EmbedConfig) -> dict[str, np.ndarray]:
    """Writes what a run's model makes of a split, with the labels beside it, to an NPZ file, whole or not at all.

    Returns:
        The arrays of the file, N rows each: those of `FinishedRun.outputs`; "labels" `[N, C]` uint8, or
        float32 with NaN where some are unknown; where the truth is known "true_distribution" `[N, C]`; for image files
        "files" `[N]`, below the data's folder where they lie there. And "label_names" `[C]`, and "changed_data", a text, where
        the data are not those that the run saw. Text is stored without pickle.

    Raises:
        InputError: the run, the data or a setting is wrong.
        OSError: the file cannot be written, which is tried before anything is encoded.
    """
    require(config, "workdir", "output")
    output = pathlib.Path(config.output)
    if output.suffix != ".npz":
        raise InputError(f"--output must be a file that ends in .npz. Received: {output}")
    run = open_run(config.workdir, config.data_dir, allow_changed_data=config.allow_changed_data)
    atomic_file.require_writable(output)
    name = config.split or DEFAULT_SPLIT
    split = run.dataset.splits[name]
    arrays = run.outputs(name) | {"labels": split.labels, "label_names": np.array(run.dataset.label_names)}
    if run.changed_data:
        arrays["changed_data"] = np.array(run.changed_data)
    if split.distributions is not None:
        arrays["true_distribution"] = split.distributions
    if isinstance(split.inputs, ImageFiles):
        arrays["files"] = _file_names(split.inputs, run.data_dir)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file.replacing(output) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return arrays


def write_features(config: EmbedConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    """Writes what a network makes of the images of each split to a folder, as `--dataset=npz` reads it.

    `train.npz`, `validation.npz` and `test.npz` hold what `arrays` says of `npz`, "features" `[N, R]`, and for image files
    "files" `[N]`, below the data's folder where they lie there. "made_by" is a text that says by what, "made_of" one that
    tells these images from others. Memory does not grow with N, but for the images of a dataset that holds them in memory.

    A file is whole or not there. Those of an earlier call that failed or was interrupted are kept where they are what this one
    would write.

    Returns:
        The shapes of the arrays by split and name.

    Raises:
        InputError: the folder holds anything else or is in use, or the data or a setting is wrong.
    """
    require(config, "backbone", "backbone_weights", "dataset", "output")
    output = pathlib.Path(config.output)
    _require_own_names(output, skip_bad_images=config.skip_bad_images)
    dataset = load_dataset(config.dataset, config.data_dir, **config.reading_options)
    image_size = config.image_size or default_image_size(dataset.input_shape)
    extractor = Extractor.build(config.backbone, config.backbone_weights, dataset, image_size)
    height, width, _ = extractor.backbone.input_shape[1:]
    made_by = f"--backbone={config.backbone}, weights {weights_hash(extractor.backbone)}, {height} x {width} pixels"
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    paths = {name: output / f"{name}.npz" for name in SPLIT_NAMES}
    with _folder_to_fill(output):
        by = {"made_by": np.array(made_by)}
        for path in paths.values():  # before all images are looked at
            _is_there(path, by, compared=by)
        if config.skip_bad_images:
            dataset = without_unreadable(dataset, output / _BAD_IMAGES, data_dir=config.data_dir, scan=True)
        arrays = {name: _beside_features(dataset, name, config.data_dir) | by for name in SPLIT_NAMES}
        missing = [name for name, path in paths.items() if not _is_there(path, arrays[name])]
        num_features = extractor.num_features
        samples = sum(len(dataset.splits[name]) for name in missing)
        if missing:
            size = in_bytes(4 * samples * num_features)
            _logger.info("%d features of %d images: %s in %s", num_features, samples, size, output)
        for name, path in paths.items():
            split = dataset.splits[name]
            shape = (len(split), num_features)
            if name in missing:
                blocks = extractor.blocks(split, name, announced=len(split))
                write_npz(path, blocks, shape, **arrays[name])
            else:
                _logger.info("%s is there already: the same network, size and images", path)
            tables = {key: array.shape for key, array in arrays[name].items() if array.ndim}
            shapes[name] = {"features": shape, **tables}
    return shapes


def _beside_features(dataset: MultiLabelDataset, name: str, folder: str | None) -> dict[str, np.ndarray]:
    """What the file of a split holds beside the features."""
    split = dataset.splits[name]
    arrays = {"labels": split.labels, "label_names": np.array(dataset.label_names)}
    if split.distributions is not None:
        arrays["distributions"] = split.distributions
    if isinstance(split.inputs, ImageFiles):
        arrays["files"] = _file_names(split.inputs, folder)
    return arrays | {"made_of": np.array(digest(*identity(split.inputs)))}


def _require_own_names(output: pathlib.Path, *, skip_bad_images: bool) -> None:
    own = {f"{name}.npz" for name in SPLIT_NAMES} | ({_BAD_IMAGES} if skip_bad_images else set())
    if output.exists() and not output.is_dir():
        raise InputError(f"--output must be {_OUTPUT}. Received: {output}, a file")
    names = sorted(path.name for path in output.iterdir()) if output.exists() else []
    others = [name for name in names if name not in own and not name.startswith(atomic_file.PARTIAL)]
    if others:
        raise InputError(f"--output must be {_OUTPUT}. Received: {output} with {others[0]}")


def _is_there(
    path: pathlib.Path, expected: Mapping[str, np.ndarray], *, compared: Collection[str] | None = None
) -> bool:
    """Whether a file of features is there.

    Args:
        path: of the file.
        expected: what it must hold beside features.
        compared: names of the arrays that are looked at; None for all.

    Raises:
        InputError: it is no such file, or holds other arrays than those expected.
    """
    if not path.exists():
        return False
    try:
        with np.load(atomic_file.regular_file(path), allow_pickle=False) as file:
            stored = {key: file[key] for key in file.files if key != "features"}
            made_by = str(stored["made_by"])
    except Exception:  # damage may surface anywhere in the reader
        raise InputError(f"--output must be {_OUTPUT}. Received: {path}, which is no file of features") from None
    for key in compared or sorted(stored.keys() | expected.keys()):
        if not _equal(stored.get(key), expected.get(key)):
            other = f"made by {made_by}" if key == "made_by" else f"of other {_WORDS.get(key, key)}"
            raise InputError(f"--output must be {_OUTPUT}. Received: {path}, {other}")
    return True


def _equal(stored: np.ndarray | None, expected: np.ndarray | None) -> bool:
    """Also of labels with NaN."""
    if stored is None or expected is None or stored.dtype != expected.dtype or stored.shape != expected.shape:
        return False
    return stored.tobytes() == expected.tobytes()


def _file_names(files: ImageFiles, folder: str | None) -> np.ndarray:
    """`[N]` paths, below the folder where they lie there."""
    inside = [folder is not None and pathlib.Path(path).is_relative_to(folder) for path in files.paths]
    return np.array(
        [os.path.relpath(path, folder) if here else path for path, here in zip(files.paths, inside, strict=True)]
    )


@contextlib.contextmanager
def _folder_to_fill(path: pathlib.Path) -> Iterator[None]:
    """Makes a folder and takes it for this process; where the block fails, what it has written stays, and an empty folder goes.

    Raises:
        InputError: another process has it.
    """
    path.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(atomic_file.in_use(path))
        except BlockingIOError:
            raise InputError(f"--output must be written by one process at a time. Received: {path}, in use") from None
        atomic_file.remove_partial(path)
        before = set(path.iterdir())
        try:
            yield
        except BaseException:
            kept = sorted(file.name for file in set(path.iterdir()) - before)
            if kept:
                _logger.warning("%s keeps %s: the same command goes on from there", path, ", ".join(kept))
            elif not before:
                path.rmdir()
            raise
