"""A finished fine-tuning: what its model says of a split, the judgement of that, and the export of the model."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mulsupcon_tf import atomic_file
from mulsupcon_tf.classifier import MultiLabelClassifier
from mulsupcon_tf.config import EvaluateConfig, ExportConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.errors import InputError, in_brief
from mulsupcon_tf.evaluation import evaluate_splits, parse_threshold
from mulsupcon_tf.export_formats import write_export
from mulsupcon_tf.image_files import naming_unreadable, with_pixel_limit, without_unreadable
from mulsupcon_tf.image_limits import MAX_IMAGE_PIXELS
from mulsupcon_tf.input_pipeline import evaluation_batches
from mulsupcon_tf.run_directory import RunDirectory, read_flags
from mulsupcon_tf.settings import require

EVALUATION_BATCH = 256


def predict_split(
    model: MultiLabelClassifier, dataset: MultiLabelDataset, split: str, image_size: int | None
) -> dict[str, np.ndarray]:
    """Probabilities `[N, C]` and representations r `[N, R]` of a split, as "probabilities" and "embedding", float32."""
    outputs = tf.function(model.embed_and_classify, reduce_retracing=True)
    batches = evaluation_batches(dataset.splits[split], batch_size=EVALUATION_BATCH, image_size=image_size)
    with naming_unreadable(lambda: dataset.splits[split].inputs):
        probabilities, embeddings = zip(*(outputs(inputs) for inputs, _ in batches), strict=True)
    return {"probabilities": np.concatenate(probabilities), "embedding": np.concatenate(embeddings)}


def judge(
    dataset: MultiLabelDataset, outputs: Mapping[str, Mapping[str, np.ndarray]], threshold: str
) -> dict[str, Any]:
    """Results of predicted splits; `evaluate_splits` says which.

    Args:
        dataset: gives the labels, and the frequencies in train that tell head from tail labels.
        outputs: `predict_split` of each split, by its name.
        threshold: the value of `--threshold`.
    """
    predicted = {name: (dataset.splits[name].labels, outputs[name]["probabilities"]) for name in outputs}
    return evaluate_splits(predicted, threshold, train_frequencies=dataset.splits["train"].labels.mean(0))


def evaluate_run(config: EvaluateConfig) -> dict[str, Any]:
    """Judges the model of a finished fine-tuning on one split; thresholds still come from validation.

    Raises:
        InputError: the run directory, the data or a setting is wrong.
    """
    require(config, "workdir")
    parse_threshold(config.threshold)
    run = RunDirectory(config.workdir)
    flags = _finetuning_flags(run)
    data_dir = config.data_dir or flags.get("data_dir")
    dataset = dataset_of_run(run, flags, data_dir)
    names = ("validation", config.split) if config.split != "validation" else ("validation",)
    image_size = int(flags["image_size"]) if "image_size" in flags else None
    model = load_classifier(run)
    outputs = {name: predict_split(model, dataset, name, image_size) for name in names}
    results = judge(dataset, outputs, config.threshold)
    if config.output:
        atomic_file.write_text(pathlib.Path(config.output), json.dumps(results, indent=2) + "\n")
    return results


def export_run(config: ExportConfig) -> None:
    """Writes the model of a finished fine-tuning, and its card, to a new folder.

    Raises:
        InputError: the run directory is wrong, the output exists, or the format cannot be written.
    """
    require(config, "workdir", "output")
    output = pathlib.Path(config.output)
    if output.exists():
        raise InputError(f"--output must not exist yet. Received: {output}")
    run = RunDirectory(config.workdir)
    flags = _finetuning_flags(run)
    write_export(
        load_classifier(run),
        output,
        config.format,
        summary=run.read_summary(),
        flags=flags,
        max_image_pixels=config.max_image_pixels or max_image_pixels_of(flags),
    )


def _finetuning_flags(run: RunDirectory) -> dict[str, str]:
    summary = run.read_summary()
    if summary["phase"] != "finetune":
        raise InputError(
            f"--workdir must be the run directory of a fine-tuning. Received: {run.path}, a {summary['phase']} run"
        )
    return read_flags(run.flags_file)


def dataset_of_run(run: RunDirectory, flags: Mapping[str, str], data_dir: str | None) -> MultiLabelDataset:
    """The data of a finished run of either phase, without the images that it left out.

    Args:
        run: its directory.
        flags: its settings as text, by name.
        data_dir: folder of the data.

    Raises:
        InputError: the data are not to be had.
    """
    dataset = with_pixel_limit(load_dataset(flags["dataset"], data_dir=data_dir), max_image_pixels_of(flags))
    return without_unreadable(dataset, run.bad_images, data_dir=data_dir, scan=False)


def max_image_pixels_of(flags: Mapping[str, str]) -> int:
    """The limit that a run had; the default where it is older than the setting."""
    return int(flags.get("max_image_pixels", MAX_IMAGE_PIXELS))


def load_classifier(run: RunDirectory) -> MultiLabelClassifier:
    """The model of a finished fine-tuning.

    Raises:
        InputError: `model.keras` is missing or damaged.
    """
    try:
        return keras.models.load_model(run.keras_model, compile=False)
    except Exception as error:  # damage may surface anywhere in the readers of zip, JSON and HDF5; code is refused
        reason = f"{type(error).__name__}: {in_brief(error)}"
        raise InputError(f"--workdir must hold a whole model.keras. Received: {run.keras_model} ({reason})") from error
