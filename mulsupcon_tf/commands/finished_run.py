"""A finished run of either phase, opened: its data, its model and what that makes of a split."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from mulsupcon_tf.commands.frozen_backbone import FrozenBackbone
from mulsupcon_tf.commands.outputs import encode, predict_split
from mulsupcon_tf.commands.phase import build_pretrainer, prepare_process
from mulsupcon_tf.config.common_flags import image_size_of, number_of, reading_options_of
from mulsupcon_tf.config.fields import from_flag_values, require_one
from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.datasets.splitting import with_share_of_train, with_whole_train
from mulsupcon_tf.input_pipeline.batches import model_input_shape
from mulsupcon_tf.input_pipeline.image_files import with_pixel_limit, without_unreadable
from mulsupcon_tf.models import neighbour_classifier  # noqa: F401 (registers the class that `model.keras` may hold)
from mulsupcon_tf.models.backbone_weights import Standardisation, read_standardisation
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.models.pretrainer import ContrastivePretrainer
from mulsupcon_tf.training.checkpoints import CheckpointStore, assign_all
from mulsupcon_tf.training.data_changes import require_data_of, require_labels_of
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.utils.atomic_file import regular_file
from mulsupcon_tf.utils.errors import InputError, in_brief


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A finished run with its data and its model.

    Attributes:
        phase: "pretrain" or "finetune".
        data_dir: folder of the data, or None.
        dataset: as the run saw it, without images that it left out.
        changed_data: what is different from the data that the run saw, in words; "" if nothing.
        outputs: from the name of a split to what the model gives for it, by name, N rows each: "features" `[N, R]`; of a
            pretraining also "embedding" `[N, D]` and, where the method recovers, "distribution" `[N, C]`; of a fine-tuning
            also "probabilities" `[N, C]`.
        represent: the same of samples that are none of the run's.
    """

    phase: str
    data_dir: str | None
    dataset: MultiLabelDataset
    changed_data: str
    outputs: Callable[[str], dict[str, np.ndarray]]
    represent: Callable[[Split], dict[str, np.ndarray]]


def open_run(workdir: str, data_dir: str | None, *, allow_changed_data: bool = False) -> FinishedRun:
    """Loads data and model of a finished run: of a pretraining the last checkpoint, of a fine-tuning `model.keras`.

    Args:
        workdir: the run directory.
        data_dir: folder of the data, where it is no longer that of the run.
        allow_changed_data: whether the data may be others than those that the run saw.

    Raises:
        InputError: the run has not finished, its model is missing or damaged, its frozen backbone is another one now, or the
            data are not to be had.
    """
    run = RunDirectory(workdir)
    phase = run.read_summary()["phase"]
    flags = read_flags(run.flags_file)
    data_dir = data_dir or flags.get("data_dir")
    dataset, changed = dataset_of_run(run, flags, data_dir, allow_changed_data=allow_changed_data)
    return FinishedRun(phase, data_dir, dataset, changed, *_OPENERS[phase](run, flags, dataset))


def _open_pretraining(run: RunDirectory, flags: dict[str, str], dataset: MultiLabelDataset):
    for name in ("epochs", "batch_size", "warmup_epochs", "queue_size", "embedding_size"):
        flags[name]  # raises where it is missing: its default depends on the data
    config = from_flag_values(PretrainConfig, flags)
    prepare_process(config)
    images = dataset
    frozen = None
    if config.freeze_backbone:
        frozen = FrozenBackbone.open(config, images, {"--workdir": run}, to_train=False)
        dataset = frozen.features
    whole = with_whole_train(dataset) if config.validation_fraction == 0 else dataset
    model = load_pretrainer(run, config, whole, "--workdir")

    def outputs(split: str) -> dict[str, np.ndarray]:
        return encode(model, dataset, split, config)

    def represent(samples: Split) -> dict[str, np.ndarray]:
        if frozen:
            blocks = list(frozen.extractor.blocks(samples, "features", announced=len(samples)))
            samples = Split(np.concatenate(blocks), samples.labels)
        return encode(model, dataclasses.replace(dataset, splits={"given": samples}), "given", config)

    return outputs, represent


def _open_finetuning(run: RunDirectory, flags: dict[str, str], dataset: MultiLabelDataset):
    model = load_classifier(run)
    image_size = image_size_of(flags)

    def represent(samples: Split) -> dict[str, np.ndarray]:
        predicted = predict_split(model, samples, image_size)
        return {"features": predicted["embedding"], "probabilities": predicted["probabilities"]}

    return lambda split: represent(dataset.splits[split]), represent


def load_pretrainer(
    run: RunDirectory, config: PretrainConfig, whole: MultiLabelDataset, setting: str
) -> ContrastivePretrainer:
    """The model of a finished pretraining, as its last checkpoint has it.

    Args:
        run: its directory.
        config: its settings.
        whole: its data, before a `--label_fraction` of train is drawn; with a frozen backbone the features.
        setting: the flag that named the folder.

    Raises:
        InputError: a file of the run is missing or damaged; of checkpoints the last one.
    """
    loaded = CheckpointStore(run.checkpoints).load_latest()
    if loaded is None:
        raise InputError(
            "The projection and the distribution layer of a pretraining are in its last checkpoint. "
            f"Received: {run.path}, which has none"
        )
    last, newest = run.read_summary()["steps"], loaded[1]["step"]
    if newest != last:  # good enough to train on from, but it is another model
        raise InputError(
            f"{setting} must hold its last checkpoint whole, that of step {last}. "
            f"Received: {run.path}, whose newest that can be read is of step {newest}"
        )
    # Vectors are standardised by statistics that are constants and not in the checkpoint.
    standardisation = encoder_standardisation(run, setting, whole) if whole.kind == "vector" else None
    trained_on = with_share_of_train(whole, config.label_fraction, config.seed)
    # All weights are in the checkpoint but those of a frozen backbone; the file that the run began with may be gone.
    weights = config.backbone_weights if config.freeze_backbone else None
    # Schedules matter to training alone: data may be fewer than a batch, and runs of earlier versions all warm-up.
    config = dataclasses.replace(config, backbone_weights=weights, warmup_epochs=0.0)
    model = build_pretrainer(config, trained_on, steps_per_epoch=1, standardisation=standardisation)
    model.optimizer.build(model.trainable_variables)
    assign_all(model.variables, loaded[0]["model"], "model")
    return model


def encoder_standardisation(run: RunDirectory, setting: str, whole: MultiLabelDataset) -> Standardisation:
    """What the encoder of a finished pretraining on vectors standardises them by.

    Args:
        run: its directory.
        setting: the flag that named the folder.
        whole: its data, before a `--label_fraction` of train is drawn: of a version that did not store the statistics.

    Raises:
        InputError: the file of the encoder is missing or damaged.
    """
    with run.whole_encoder_weights(setting) as path:
        stored = read_standardisation(path)
    if stored is not None:
        return stored
    flags = read_flags(run.flags_file)
    features = with_share_of_train(whole, number_of(flags, "label_fraction"), number_of(flags, "seed")).train_features
    assert features is not None
    return Standardisation.of(features)


_OPENERS = {"pretrain": _open_pretraining, "finetune": _open_finetuning}


def finetuning_flags(run: RunDirectory) -> dict[str, str]:
    """The settings of a finished fine-tuning as text, by name.

    Raises:
        InputError: this is another run, or an unfinished one.
    """
    summary = run.read_summary()
    if summary["phase"] != "finetune":
        raise InputError(
            f"--workdir must be the run directory of a fine-tuning. Received: {run.path}, a {summary['phase']} run"
        )
    return read_flags(run.flags_file)


def model_folder(config: Any) -> str:
    """The folder of the SavedModel that `--saved_model` names, or that the fine-tuning of `--workdir` has left.

    Args:
        config: settings with these two.

    Raises:
        InputError: not one of both was given, or the run is no finished fine-tuning.
    """
    require_one(config, "saved_model", "workdir")
    if config.saved_model is not None:
        return config.saved_model
    run = RunDirectory(config.workdir)
    finetuning_flags(run)
    return str(run.saved_model)


def dataset_of_run(
    run: RunDirectory, flags: Mapping[str, str], data_dir: str | None, *, allow_changed_data: bool = False
) -> tuple[MultiLabelDataset, str]:
    """The data of a finished run of either phase, without the images that it left out, and what has changed in them.

    Args:
        run: its directory.
        flags: its settings as text, by name.
        data_dir: folder of the data.
        allow_changed_data: whether they may be others than those that the run saw.

    Raises:
        InputError: the data are not to be had, see `data_changes.require_data_of` and `require_labels_of`, or samples are of
            another shape.
    """
    dataset = load_dataset(flags["dataset"], data_dir=data_dir, **reading_options_of(flags))
    dataset = with_pixel_limit(dataset, number_of(flags, "max_image_pixels"))
    changed = require_data_of(run, dataset, allowed=allow_changed_data, data_dir=data_dir)
    require_labels_of(run, dataset)
    shape = model_input_shape(dataset, image_size_of(flags))
    expected = tuple(run.read_summary().get("input_shape", shape))
    if shape != expected:
        raise InputError(f"samples must have the shape {expected}, which {run.path} has learnt. Received: {shape}")
    return without_unreadable(dataset, run.bad_images, data_dir=data_dir, scan=False), changed


def load_classifier(run: RunDirectory, setting: str = "--workdir") -> MultiLabelClassifier:
    """The model of a finished fine-tuning.

    Args:
        run: its directory.
        setting: the flag that named the folder.

    Raises:
        InputError: `model.keras` is missing or damaged.
    """
    try:
        return keras.models.load_model(regular_file(run.keras_model), compile=False)
    except Exception as error:  # damage may surface anywhere in the readers of zip, JSON and HDF5; code is refused
        reason = f"{type(error).__name__}: {in_brief(error)}"
        raise InputError(f"{setting} must hold a whole model.keras. Received: {run.keras_model} ({reason})") from error
