"""Fine-tuning or linear probing from a config to a finished run directory."""

import logging
import shlex
from typing import Any

import numpy as np

from mulsupcon_tf.commands.earlier_run import EarlierRun, open_frozen_backbone
from mulsupcon_tf.commands.outputs import beside_neighbours, calibrate, judge, predict_split
from mulsupcon_tf.commands.phase import build_classifier, prepare_process, summary_of_run
from mulsupcon_tf.commands.phase_data import (
    open_state,
    read_dataset,
    require_readable_later,
    say_what_was_read,
    trained_on,
    with_train_of,
    without_bad_images,
)
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.flags import FinetuneConfig
from mulsupcon_tf.config.program_flags import DEFAULT_THRESHOLD
from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import require_known_labels
from mulsupcon_tf.evaluation.thresholds import parse_threshold
from mulsupcon_tf.input_pipeline.batches import model_input_shape
from mulsupcon_tf.input_pipeline.feed import training_feed
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.models.neighbour_classifier import NeighbourClassifier
from mulsupcon_tf.optimizers.averaged_weights import averaged_weights
from mulsupcon_tf.serving.saved_model import in_float32, write_saved_model
from mulsupcon_tf.training.agreement import require_agreement, told_to_all
from mulsupcon_tf.training.checkpoints import CheckpointStore, TrainingState
from mulsupcon_tf.training.devices import Devices, open_devices
from mulsupcon_tf.training.epoch_hooks import Validation
from mulsupcon_tf.training.loop import train
from mulsupcon_tf.training.resolving import DataSize, resolved_finetuning, say_start, settings_begun_with
from mulsupcon_tf.training.run_directory import RunDirectory, run_directory_of
from mulsupcon_tf.training.tensorboard import TensorBoard, write_projector
from mulsupcon_tf.utils.atomic_file import replacing
from mulsupcon_tf.utils.errors import InputError


def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Trains a classifier on a (pretrained) backbone, judges it, and leaves `model.keras` and `saved_model/`.

    The weights that are kept are those that `--select_by` names; by default of the best validation mAP.

    Args:
        config: settings; those that are None are filled in for the dataset.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: a setting, the data, the pretraining or the run directory is wrong; nothing has been written then.
    """
    require(config, "workdir")
    if config.threshold is not None:
        parse_threshold(config.threshold)
    # A finished run needs no devices: a worker that was started alone would wait for the others.
    devices = Devices() if RunDirectory(config.workdir).finished else open_devices(config)
    with run_directory_of(config.workdir, is_chief=devices.is_chief) as run, devices.synchronised_exit():
        return _finetune(config, run, devices)


def _finetune(config: FinetuneConfig, run: RunDirectory, devices: Devices) -> dict[str, Any]:
    earlier = EarlierRun.of(config, is_chief=devices.is_chief)
    with told_to_all(devices):
        stored = read_dataset(config)
        given, config = config, resolved_finetuning(config, DataSize.of(stored), settings_begun_with(config.workdir))
    if config.mix_neighbours:
        require_known_labels(stored, "--mix_neighbours")
    require_agreement(devices, config, stored)
    devices.check(config.batch_size)
    state = open_state(config, run, stored)
    if state is None:
        return run.read_summary()
    if devices.is_chief:
        say_start(given, config)
    if earlier:
        earlier.check(config, stored, state)
    readable = without_bad_images(config, run, stored, devices)
    judged_splits = ("test",) if config.validation_fraction == 0 else ("validation", "test")
    _require_labels(readable, judged_splits)
    require_readable_later(config, run, readable, judged_splits)
    frozen = open_frozen_backbone(config, run, earlier, readable, state) if config.freeze_backbone else None
    whole = with_train_of(config, frozen.features if frozen else readable)
    dataset = trained_on(config, whole)
    feed = training_feed(dataset, config, num_views=1, shard=devices.shard)
    prepare_process(config)
    standardisation = earlier.standardisation(config, whole) if earlier else None
    begun = CheckpointStore(run.checkpoints).begun
    with devices.strategy.scope():
        model = build_classifier(config, dataset, feed.steps_per_epoch, standardisation, restored=begun)
    if earlier:
        earlier.start_classifier(model, config, dataset)
    # What is judged is what is saved and served. Made now, so that a network that cannot be costs no training.
    judged = in_float32(model)
    say_what_was_read(config, readable, devices)
    run.claim(config)
    tensorboard = TensorBoard(run.tensorboard)
    train(
        model,
        feed,
        config=config,
        run=run,
        tensorboard=tensorboard,
        state=state,
        devices=devices,
        on_epoch_end=Validation(model, dataset, config, state).epoch_ended,
    )
    with averaged_weights(model):  # those of the last step, where no epoch is chosen
        if state.best_weights:
            for variable, array in zip(model.variables, state.best_weights, strict=True):
                variable.assign(array)
        judged.set_weights(model.get_weights())
    validation = whole.splits["validation"] if "validation" in judged_splits else None
    judged, fitted = fit_on_validation(
        judged, dataset.splits["train"], validation, config, zero_is_even=model.loss.zero_is_even
    )
    # What is judged is decoded as a served image is, not taken from the cache.
    outputs = {name: predict_split(judged, whole.splits[name], config.image_size) for name in judged_splits}
    write_projector(run.tensorboard, outputs["test"]["embedding"], readable.with_known_positives())
    tensorboard.close()
    run.write_test_outputs(outputs["test"])
    method = earlier.method if earlier else "bce"
    input_shape = model_input_shape(stored, config.image_size)
    summary = summary_of_run(config, dataset, state, phase="finetune", method=method, input_shape=input_shape)
    frequencies = np.asarray(summary["label_frequencies"])
    results = judge(dataset, outputs, config.threshold, train_frequencies=frequencies)
    summary |= {"best_epoch": state.best_epoch or state.epoch, "selected_by": config.select_by} | results
    if earlier:
        summary |= earlier.entries()
        then = earlier.run.read_summary()
        if "contrastive_steps" in then:  # of the pretraining: of 0 its method is but a name
            summary["contrastive_steps"] = then["contrastive_steps"]
    if frozen:
        summary["frozen_weights"] = frozen.weights
    summary |= fitted
    _leave_model(frozen.whole_classifier(judged) if frozen else judged, summary, config, run)
    _say_what_was_kept(config, state)
    return summary


def fit_on_validation(
    model: MultiLabelClassifier, train: Split, validation: Split | None, config: FinetuneConfig, *, zero_is_even: bool
) -> tuple[MultiLabelClassifier, dict[str, Any]]:
    """The classifier with what validation decides after the training: its neighbours and its calibration.

    Args:
        model: not calibrated yet.
        train: what was trained on, which has the neighbours.
        validation: None where it was trained on, which leaves the classifier as it is.
        config: resolved settings.
        zero_is_even: see `LossOfLogits`.

    Returns:
        The classifier, and the entries of its summary.
    """
    if validation is None:
        return model, {}
    calibrated = config.calibration == "temperature"
    if not config.mix_neighbours:
        if not calibrated:
            return model, {}
        fit = calibrate(model, validation, config.image_size, with_offset=not zero_is_even)
        return model, {"calibration": fit._asdict()}
    # A mixture takes probabilities at their word: logits that are no log-odds get these first; `NeighbourClassifier` says why.
    first = None
    if calibrated and not zero_is_even:
        first = calibrate(model, validation, config.image_size, with_offset=True)
    mixed, mixture = beside_neighbours(model, train, validation, config.image_size)
    entries = {"neighbours": mixture._asdict()}
    if first and mixed is model:  # no neighbours help: it is calibrated already
        return model, entries | {"calibration": first._asdict()}
    if first:
        assert isinstance(mixed, NeighbourClassifier)
        mixed.calibrate_network(*first)
        entries["neighbours"] |= {f"network_{name}": value for name, value in first._asdict().items()}
    if calibrated:  # a mixture of probabilities is even at zero
        entries["calibration"] = calibrate(mixed, validation, config.image_size, with_offset=False)._asdict()
    return mixed, entries


def _leave_model(
    model: MultiLabelClassifier, summary: dict[str, Any], config: FinetuneConfig, run: RunDirectory
) -> None:
    """Writes the model as `model.keras` and as a SavedModel, then the summary, which says that the run is finished."""
    with replacing(run.keras_model) as temporary:
        model.save(temporary)
    write_saved_model(
        model,
        run.saved_model,
        label_names=tuple(summary["label_names"]),
        thresholds=summary["thresholds"],
        max_image_pixels=config.max_image_pixels,
    )
    run.write_summary(summary)


def _say_what_was_kept(config: FinetuneConfig, state: TrainingState) -> None:
    logger = logging.getLogger("mulsupcon_tf")
    if state.stopped:
        logger.info("stopped after epoch %d: none was better for --patience=%s", state.epoch, config.patience)
    by = {"mAP": "the best validation mAP", "loss": "the lowest validation loss", "last": "the last"}[config.select_by]
    kept = state.best_epoch or state.epoch
    logger.info("kept the weights of epoch %d of %d, %s", kept, state.epoch, by)
    words = [f"--workdir={config.workdir}"]
    if config.threshold != DEFAULT_THRESHOLD:
        words.append(f"--threshold={config.threshold}")
    logger.info("next: python -m mulsupcon_tf.evaluate %s", shlex.join(words))


def _require_labels(dataset: MultiLabelDataset, names: tuple[str, ...]) -> None:
    """Raises `InputError` for a split without a positive label: nothing could be judged on it after the training."""
    for name in names:
        if not dataset.splits[name].positives.any():
            raise InputError(
                f"a split that is judged must have a sample with a label. Received: {len(dataset.splits[name])} samples "
                f"without any in {name} of dataset {dataset.name!r}"
            )
