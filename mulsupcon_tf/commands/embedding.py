"""Embeddings of a split by a finished run, or features of all splits by a network without one, written to files."""

import contextlib
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np

from mulsupcon_tf.commands.feature_extraction import Extractor
from mulsupcon_tf.commands.finished_run import open_run
from mulsupcon_tf.config.defaults import default_image_size
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.program_flags import DEFAULT_SPLIT, EmbedConfig
from mulsupcon_tf.datasets.arrays import write_npz
from mulsupcon_tf.datasets.base import SPLIT_NAMES, ImageFiles
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.input_pipeline.image_files import without_unreadable
from mulsupcon_tf.models.backbone_weights import weights_hash
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import in_bytes


def export_embeddings(config: EmbedConfig) -> dict[str, np.ndarray]:
    """Writes what a run's model makes of a split, with the labels beside it, to an NPZ file, whole or not at all.

    Returns:
        The arrays of the file, N rows each: those of `FinishedRun.outputs`; "labels" `[N, C]` uint8; where the truth is known
        "true_distribution" `[N, C]`; for image files "files" `[N]`, below the data's folder where they lie there. And
        "label_names" `[C]`, and "changed_data", a text, where the data are not those that the run saw. Text is stored without
        pickle.

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
    """Writes what a network makes of the images of each split to a new folder, as `--dataset=npz` reads it.

    `train.npz`, `validation.npz` and `test.npz` hold what `arrays` says of `npz`, "features" `[N, R]`, and for image files
    "files" `[N]`, below the data's folder where they lie there. "made_by" is a text that says by what. Memory does not
    grow with N, but for the images of a dataset that holds them in memory.

    Returns:
        The shapes of the arrays by split and name.

    Raises:
        InputError: the folder is not empty, or the data or a setting is wrong; nothing has been written then.
    """
    require(config, "backbone", "backbone_weights", "dataset", "output")
    output = pathlib.Path(config.output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise InputError(f"--output must be a new or an empty folder. Received: {output}")
    dataset = load_dataset(config.dataset, config.data_dir, **config.reading_options)
    image_size = config.image_size or default_image_size(dataset.input_shape)
    extractor = Extractor.build(config.backbone, config.backbone_weights, dataset, image_size)
    height, width, _ = extractor.backbone.input_shape[1:]
    made_by = f"--backbone={config.backbone}, weights {weights_hash(extractor.backbone)}, {height} x {width} pixels"
    shapes: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in SPLIT_NAMES}
    with _new_folder(output):
        if config.skip_bad_images:
            dataset = without_unreadable(dataset, output / "bad_images.txt", data_dir=config.data_dir, scan=True)
        num_features = extractor.num_features
        samples = sum(len(split) for split in dataset.splits.values())
        logging.getLogger("mulsupcon_tf").info(
            "%d features of %d images: %s in %s", num_features, samples, in_bytes(4 * samples * num_features), output
        )
        for name in SPLIT_NAMES:
            split = dataset.splits[name]
            arrays = {"labels": split.labels, "label_names": np.array(dataset.label_names)}
            if split.distributions is not None:
                arrays["distributions"] = split.distributions
            if isinstance(split.inputs, ImageFiles):
                arrays["files"] = _file_names(split.inputs, config.data_dir)
            shape = (len(split), num_features)
            blocks = extractor.blocks(split, name, announced=len(split))
            write_npz(output / f"{name}.npz", blocks, shape, **arrays, made_by=np.array(made_by))
            shapes[name] |= {"features": shape} | {key: array.shape for key, array in arrays.items()}
    return shapes


def _file_names(files: ImageFiles, folder: str | None) -> np.ndarray:
    """`[N]` paths, below the folder where they lie there."""
    inside = [folder is not None and pathlib.Path(path).is_relative_to(folder) for path in files.paths]
    return np.array(
        [os.path.relpath(path, folder) if here else path for path, here in zip(files.paths, inside, strict=True)]
    )


@contextlib.contextmanager
def _new_folder(path: pathlib.Path) -> Iterator[None]:
    """Makes a folder, and removes it where the block fails or is interrupted."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(path)
        raise
