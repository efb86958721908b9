"""Embeddings of a split by a finished run, written to a file."""

import os
import pathlib

import numpy as np

from mulsupcon_tf.commands.finished_run import open_run
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.program_flags import EmbedConfig
from mulsupcon_tf.datasets.base import ImageFiles
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError


def export_embeddings(config: EmbedConfig) -> dict[str, np.ndarray]:
    """Writes what a run's model makes of a split, with the labels beside it, to an NPZ file, whole or not at all.

    Returns:
        The arrays of the file, N rows each: those of `FinishedRun.outputs`; "labels" `[N, C]` uint8; where the truth is known
        "true_distribution" `[N, C]`; for image files "files" `[N]`, below the data's folder where they lie there. And
        "label_names" `[C]`, and "changed_data", a text, where the data are not those that the run saw. Text is stored without
        pickle.

    Raises:
        InputError: the run, the data or a setting is wrong.
    """
    require(config, "workdir", "output")
    output = pathlib.Path(config.output)
    if output.suffix != ".npz":
        raise InputError(f"--output must be a file that ends in .npz. Received: {output}")
    run = open_run(config.workdir, config.data_dir, allow_changed_data=config.allow_changed_data)
    split = run.dataset.splits[config.split]
    arrays = run.outputs(config.split) | {"labels": split.labels, "label_names": np.array(run.dataset.label_names)}
    if run.changed_data:
        arrays["changed_data"] = np.array(run.changed_data)
    if split.distributions is not None:
        arrays["true_distribution"] = split.distributions
    if isinstance(split.inputs, ImageFiles):
        folder = run.data_dir
        inside = [folder is not None and pathlib.Path(path).is_relative_to(folder) for path in split.inputs.paths]
        arrays["files"] = np.array(
            [
                os.path.relpath(path, folder) if here else path
                for path, here in zip(split.inputs.paths, inside, strict=True)
            ]
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file.replacing(output) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return arrays
