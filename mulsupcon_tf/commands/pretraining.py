"""Pretraining from a config to a finished run directory."""

import logging
import shlex
from typing import Any

import numpy as np

from mulsupcon_tf.commands.earlier_run import EarlierRun, open_frozen_backbone
from mulsupcon_tf.commands.outputs import encode, judge_by_neighbours
from mulsupcon_tf.commands.phase import (
    build_pretrainer,
    contrastive_steps,
    prepare_process,
    summary_of_run,
    warnings_of,
)
from mulsupcon_tf.commands.phase_data import (
    as_fed,
    open_state,
    read_dataset,
    require_labels_for_pretraining,
    require_readable_later,
    say_what_was_read,
    trained_on,
    with_train_of,
    without_bad_images,
)
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.datasets.splitting import require_true_distributions
from mulsupcon_tf.evaluation.distribution_distances import judge_recovery
from mulsupcon_tf.input_pipeline.batches import model_input_shape
from mulsupcon_tf.input_pipeline.feed import training_feed
from mulsupcon_tf.models.backbone_weights import save_weights
from mulsupcon_tf.models.pretrainer import ContrastivePretrainer
from mulsupcon_tf.training.agreement import require_agreement, told_to_all
from mulsupcon_tf.training.checkpoints import CheckpointStore
from mulsupcon_tf.training.devices import Devices, open_devices
from mulsupcon_tf.training.epoch_hooks import PretrainingWatch
from mulsupcon_tf.training.loop import train
from mulsupcon_tf.training.resolving import DataSize, resolved_pretraining, say_start, settings_begun_with
from mulsupcon_tf.training.run_directory import RunDirectory, run_directory_of
from mulsupcon_tf.training.tensorboard import TensorBoard, write_projector
from mulsupcon_tf.utils.atomic_file import sha256
from mulsupcon_tf.utils.choices import TRUE_DISTRIBUTION_METHODS


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Pretrains, or continues an interrupted pretraining, and leaves `encoder.weights.h5` and `summary.json`.

    Args:
        config: settings; those that are None are filled in for the dataset.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: a setting, the data or the run directory is wrong; nothing has been written then.
    """
    require(config, "workdir")
    # A finished run needs no devices: a worker that was started alone would wait for the others.
    devices = Devices() if RunDirectory(config.workdir).finished else open_devices(config)
    with run_directory_of(config.workdir, is_chief=devices.is_chief) as run, devices.synchronised_exit():
        return _pretrain(config, run, devices)


def _pretrain(config: PretrainConfig, run: RunDirectory, devices: Devices) -> dict[str, Any]:
    with told_to_all(devices):
        stored = read_dataset(config)
        if config.method in TRUE_DISTRIBUTION_METHODS:
            require_true_distributions(stored)
        given, config = config, resolved_pretraining(config, DataSize.of(stored), settings_begun_with(config.workdir))
    earlier = EarlierRun.of(config, is_chief=devices.is_chief)
    require_labels_for_pretraining(config, stored)
    require_agreement(devices, config, stored)
    devices.check(config.batch_size, config.gradient_accumulation_steps)
    state = open_state(config, run, stored)
    if state is None:
        return run.read_summary()
    if devices.is_chief:
        say_start(given, config)
    if earlier:
        earlier.check(config, stored, state)
    readable = without_bad_images(config, run, stored.with_known_positives(), devices)
    require_readable_later(config, run, readable, ("validation", "test") if config.monitor_every else ("test",))
    frozen = open_frozen_backbone(config, run, earlier, readable, state) if config.freeze_backbone else None
    whole = with_train_of(config, frozen.features if frozen else readable)
    dataset = trained_on(config, whole)
    feed = training_feed(as_fed(config, dataset), config, num_views=2, shard=devices.shard)
    prepare_process(config)
    standardisation = earlier.standardisation(config, whole) if earlier else None
    begun = CheckpointStore(run.checkpoints).begun
    with devices.strategy.scope():
        model = build_pretrainer(config, dataset, feed.steps_per_epoch, standardisation, restored=begun)
    if earlier:
        earlier.start_pretrainer(model, whole)
    views, sample_labels = feed.batch(0)
    say_what_was_read(config, readable, devices)
    if devices.is_chief:
        for line in warnings_of(config, feed.steps_per_epoch, dataset.num_labels):
            logging.getLogger("mulsupcon_tf").warning("%s", line)
    run.claim(config)
    tensorboard = TensorBoard(run.tensorboard)
    watch = PretrainingWatch(
        model,
        config,
        tensorboard,
        (np.asarray(views[0]), np.asarray(sample_labels)),
        last_step=config.total_steps(feed.steps_per_epoch),
        judge=lambda: judge_by_neighbours(model, dataset, config),
    )

    def log_views() -> None:
        if dataset.kind == "image":
            tensorboard.log_views(views[0], views[1], step=0)

    train(
        model,
        feed,
        config=config,
        run=run,
        tensorboard=tensorboard,
        state=state,
        devices=devices,
        on_epoch_end=watch.epoch_ended,
        on_start=log_views,
    )
    outputs = encode(model, whole, "test", config)
    write_projector(run.tensorboard, outputs["embedding"], readable)
    tensorboard.close()
    run.write_test_outputs(outputs)
    input_shape = model_input_shape(stored, config.image_size)
    summary = summary_of_run(config, dataset, state, phase="pretrain", method=config.method, input_shape=input_shape)
    if config.bce_warmup_epochs:
        summary["contrastive_steps"] = contrastive_steps(config, feed.steps_per_epoch)
    if earlier:
        summary |= earlier.entries()
    if frozen:
        summary["frozen_weights"] = frozen.weights
    truth = dataset.splits["test"].distributions
    if "distribution" in outputs and truth is not None and truth.any():
        summary["recovery"] = judge_recovery(dataset, outputs["distribution"], outputs["features"])
    _leave_encoder(model, run)
    summary["encoder_sha256"] = sha256(run.encoder_weights)
    run.write_summary(summary)
    names = {"dataset": config.dataset, "data_dir": config.data_dir, **config.reading_options}
    if config.validation_fraction == 0:  # what the encoder has seen is kept apart no more
        names["validation_fraction"] = 0
    names |= {"pretrained": config.workdir, "workdir": "NEW"}
    words = [f"--{name}={value}" for name, value in names.items() if value is not None]
    logging.getLogger("mulsupcon_tf").info("next: python -m mulsupcon_tf.finetune %s", shlex.join(words))
    return summary


def _leave_encoder(model: ContrastivePretrainer, run: RunDirectory) -> None:
    """Writes the backbone, and the linear layer that a classifier can go on with, where there is one."""
    save_weights(model.backbone, run.encoder_weights)
    head = model.label_layer
    if head is not None:
        run.write_head(*head.get_weights())
