"""Pretraining from a config to a finished run directory."""

import functools
import logging
from typing import Any

import numpy as np
import tensorflow as tf

from mulsupcon_tf.commands.outputs import encode, judge_by_neighbours
from mulsupcon_tf.commands.phase import build_pretrainer, prepare_process, summary_of_run
from mulsupcon_tf.config.defaults import resolve_pretraining
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.datasets.splitting import (
    require_true_distributions,
    share_size,
    with_share_of_train,
    with_true_distributions_as_labels,
    with_whole_train,
)
from mulsupcon_tf.evaluation.distribution_distances import judge_recovery
from mulsupcon_tf.input_pipeline.batches import training_batches
from mulsupcon_tf.input_pipeline.cache import with_decoded_cache
from mulsupcon_tf.input_pipeline.image_files import naming_unreadable, with_pixel_limit, without_unreadable
from mulsupcon_tf.input_pipeline.sampling_order import describe_batch, steps_per_epoch, training_inputs
from mulsupcon_tf.models.backbone_weights import save_weights
from mulsupcon_tf.training.checkpoints import TrainingState
from mulsupcon_tf.training.data_changes import require_data_of
from mulsupcon_tf.training.devices import Devices, open_devices
from mulsupcon_tf.training.epoch_hooks import PretrainingWatch
from mulsupcon_tf.training.loop import train
from mulsupcon_tf.training.run_directory import RunDirectory, run_directory_of
from mulsupcon_tf.training.tensorboard import TensorBoard, write_projector
from mulsupcon_tf.utils.atomic_file import sha256


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
    devices = open_devices(config)
    with run_directory_of(config.workdir, is_chief=devices.is_chief) as run, devices.synchronised_exit():
        return _pretrain(config, run, devices)


def _pretrain(config: PretrainConfig, run: RunDirectory, devices: Devices) -> dict[str, Any]:
    dataset = load_dataset(config.dataset, data_dir=config.data_dir, **config.reading_options)
    dataset = with_pixel_limit(dataset, config.max_image_pixels)
    if config.method == "truth":
        require_true_distributions(dataset)
    if config.validation_fraction == 0:
        whole_train = len(dataset.splits["train"]) + len(dataset.splits["validation"])
    else:
        whole_train = len(dataset.splits["train"])
    num_train = share_size(whole_train, config.label_fraction)
    config = resolve_pretraining(config, input_shape=dataset.input_shape, num_train=num_train)
    devices.check(config.batch_size, config.gradient_accumulation_steps)
    # Before the settings: the default of one depends on the number of samples.
    changed = require_data_of(run, dataset, allowed=config.allow_changed_data, data_dir=config.data_dir)
    run.check(config)
    if run.finished:
        logging.getLogger("mulsupcon_tf").info("%s is finished; nothing to do", run.path)
        return run.read_summary()
    state = TrainingState(data=dataset.fingerprint(), changed_data=changed)
    if config.skip_bad_images:
        run.claim(config)
        dataset = without_unreadable(dataset, run.bad_images, data_dir=config.data_dir, scan=True)
    if config.validation_fraction == 0:
        dataset = with_whole_train(dataset)
    dataset = originals = with_share_of_train(dataset, config.label_fraction, config.seed)
    if config.cache:
        dataset = with_decoded_cache(dataset, config.image_size)
    fed = with_true_distributions_as_labels(dataset) if config.method == "truth" else dataset
    steps = steps_per_epoch(dataset.splits["train"], config.batch_size)
    prepare_process(config)
    with devices.strategy.scope():
        model = build_pretrainer(config, dataset, steps)

    @tf.autograph.experimental.do_not_convert  # see `training.loop._compiled_steps`
    def batches_from(step: int) -> tf.data.Dataset:
        return training_batches(
            fed,
            batch_size=config.batch_size,
            num_views=2,
            augmentation=config.augmentation,
            image_size=config.image_size,
            seed=config.seed,
            mask_rate=0.0 if config.mask_rate is None else config.mask_rate,
            first_step=step,
            shard=devices.shard,
        )

    inputs_of = functools.partial(training_inputs, dataset, batch_size=config.batch_size, seed=config.seed)
    with naming_unreadable(functools.partial(inputs_of, 0, 1)):
        views, sample_labels = next(iter(batches_from(0)))
    run.claim(config)
    tensorboard = TensorBoard(run.tensorboard)
    watch = PretrainingWatch(
        model, config, tensorboard, (np.asarray(views[0]), np.asarray(sample_labels)),
        last_step=min(config.epochs * steps, config.max_steps or config.epochs * steps),
        judge=lambda: judge_by_neighbours(model, dataset, config),
    )  # fmt: skip

    def log_views() -> None:
        if dataset.kind == "image":
            tensorboard.log_views(views[0], views[1], step=0)

    train(
        model, batches_from, config=config, steps_per_epoch=steps, run=run, tensorboard=tensorboard,
        state=state, on_start=log_views, on_epoch_end=watch.epoch_ended,
        inputs_of=inputs_of,
        describe_batch=functools.partial(describe_batch, dataset, batch_size=config.batch_size, seed=config.seed),
        devices=devices,
    )  # fmt: skip
    outputs = encode(model, originals, "test", config)
    write_projector(run.tensorboard, outputs["embedding"], originals)
    tensorboard.close()
    run.write_test_outputs(outputs)
    summary = summary_of_run(config, dataset, state, phase="pretrain", method=config.method)
    if "distribution" in outputs and dataset.splits["test"].distributions is not None:
        summary["recovery"] = judge_recovery(dataset, outputs["distribution"], outputs["features"])
    save_weights(model.backbone, run.encoder_weights)
    head = model.label_layer
    if head is not None:
        run.write_head(*head.get_weights())
    summary["encoder_sha256"] = sha256(run.encoder_weights)
    run.write_summary(summary)
    logger = logging.getLogger("mulsupcon_tf")
    logger.info(
        "next: python -m mulsupcon_tf.finetune --dataset=%s --pretrained=%s --workdir=NEW", config.dataset, run.path
    )
    return summary
