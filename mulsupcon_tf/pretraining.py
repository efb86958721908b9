"""Pretraining from a config to a finished run directory."""

import functools
import logging
from typing import Any

import numpy as np
import tensorflow as tf

from mulsupcon_tf.atomic_file import sha256
from mulsupcon_tf.bad_steps import describe_batch
from mulsupcon_tf.config import PretrainConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.datasets.splitting import (
    require_true_distributions,
    with_share_of_train,
    with_true_distributions_as_labels,
)
from mulsupcon_tf.decoded_cache import with_decoded_cache
from mulsupcon_tf.default_settings import resolve_pretraining
from mulsupcon_tf.devices import Devices, open_devices
from mulsupcon_tf.encoder import build_backbone, build_projection_head, save_weights
from mulsupcon_tf.image_files import naming_unreadable, with_pixel_limit, without_unreadable
from mulsupcon_tf.input_pipeline import (
    evaluation_batches,
    model_input_shape,
    steps_per_epoch,
    training_batches,
    training_inputs,
)
from mulsupcon_tf.monitoring import TensorBoard
from mulsupcon_tf.nearest_neighbours import bank_rows, neighbour_mean_average_precision
from mulsupcon_tf.optimization import MomentumRamp, StepSchedule, build_optimizer, warmup_cosine
from mulsupcon_tf.pretrainer import ContrastivePretrainer
from mulsupcon_tf.pretraining_watch import PretrainingWatch
from mulsupcon_tf.projector import write_projector
from mulsupcon_tf.recovery_evaluation import judge_recovery
from mulsupcon_tf.run_directory import RunDirectory, run_directory_of
from mulsupcon_tf.settings import require
from mulsupcon_tf.training import prepare_process, summary_of_run, train
from mulsupcon_tf.training_state import TrainingState


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
    with run_directory_of(config.workdir, is_chief=devices.is_chief) as run, devices.together():
        return _pretrain(config, run, devices)


def _pretrain(config: PretrainConfig, run: RunDirectory, devices: Devices) -> dict[str, Any]:
    dataset = load_dataset(config.dataset, data_dir=config.data_dir)
    dataset = with_pixel_limit(dataset, config.max_image_pixels)
    if config.method == "truth":
        require_true_distributions(dataset)
    dataset = with_share_of_train(dataset, config.label_fraction, config.seed)
    config = resolve_pretraining(config, input_shape=dataset.input_shape, num_train=len(dataset.splits["train"]))
    devices.check(config.batch_size, config.gradient_accumulation_steps)
    run.check(config)
    if run.finished:
        logging.getLogger("mulsupcon_tf").info("%s is finished; nothing to do", run.path)
        return run.read_summary()
    if config.skip_bad_images:
        run.claim(config)
        dataset = without_unreadable(dataset, run.bad_images, data_dir=config.data_dir, scan=True)
    originals = dataset
    if config.cache:
        dataset = with_decoded_cache(dataset, config.image_size)
    fed = with_true_distributions_as_labels(dataset) if config.method == "truth" else dataset
    steps = steps_per_epoch(dataset.splits["train"], config.batch_size)
    prepare_process(config)
    with devices.strategy.scope():
        model = build_pretrainer(config, dataset, steps)

    @tf.autograph.experimental.do_not_convert  # see `training._compiled_steps`
    def batches_from(step: int) -> tf.data.Dataset:
        return training_batches(
            fed, batch_size=config.batch_size, num_views=2, augmentation=config.augmentation,
            image_size=config.image_size, seed=config.seed, first_step=step, shard=devices.shard,
        )  # fmt: skip

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

    state = train(
        model, batches_from, config=config, steps_per_epoch=steps, run=run, tensorboard=tensorboard,
        state=TrainingState(data=originals.fingerprint()), on_start=log_views, on_epoch_end=watch.epoch_ended,
        inputs_of=inputs_of,
        describe_batch=functools.partial(describe_batch, dataset, batch_size=config.batch_size, seed=config.seed),
        devices=devices,
    )  # fmt: skip
    outputs = encode(model, originals, "test", config)
    write_projector(run.tensorboard, outputs["embedding"], originals)
    tensorboard.close()
    run.write_test_outputs(outputs)
    summary = summary_of_run(config, dataset, state, phase="pretrain", method=config.method)
    if model.recovers and dataset.splits["test"].distributions is not None:
        summary["recovery"] = judge_recovery(dataset, outputs["distribution"], outputs["features"], config.rho)
    save_weights(model.backbone, run.encoder_weights)
    summary["encoder_sha256"] = sha256(run.encoder_weights)
    run.write_summary(summary)
    return summary


def build_pretrainer(config: PretrainConfig, dataset: MultiLabelDataset, steps_per_epoch: int) -> ContrastivePretrainer:
    """Builds and compiles the model of a resolved config.

    Args:
        config: resolved settings.
        dataset: gives C, the shape of a sample and the statistics that vectors are standardised by.
        steps_per_epoch: steps in one epoch.
    """
    backbone = build_backbone(
        config.backbone, model_input_shape(dataset, config.image_size), train_features=dataset.train_features,
        weights=config.backbone_weights,
    )  # fmt: skip
    model = ContrastivePretrainer(
        backbone, build_projection_head(backbone.output_shape[-1], config.embedding_size), dataset.num_labels,
        method=config.method, queue_size=config.queue_size, temperature=config.temperature,
        temperature_d=config.temperature_d, alpha=config.alpha, beta=config.beta, gamma=config.gamma, rho=config.rho,
        weigh_keys=config.weigh_keys,
        affinity_power=config.affinity_power,
        momentum=MomentumRamp(config.momentum) if config.momentum_schedule == "ramp" else config.momentum,
        rbf_sigma=config.rbf_sigma, recovery_gradient=config.recovery_gradient, average=config.average,
        bce_weight=config.bce_weight, gradient_accumulation_steps=config.gradient_accumulation_steps,
        contrastive_weight=StepSchedule(round(config.bce_warmup_epochs * steps_per_epoch)) if config.bce_warmup_epochs else 1.0,
    )  # fmt: skip
    schedule = warmup_cosine(
        config.learning_rate, total_steps=config.epochs * steps_per_epoch,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch), final_scale=config.final_learning_rate_scale,
    )  # fmt: skip
    model.compile(optimizer=build_optimizer(config.optimizer, schedule, config.weight_decay))
    return model


def encode(
    model: ContrastivePretrainer,
    dataset: MultiLabelDataset,
    split: str,
    config: PretrainConfig,
    rows: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Features `[N, R]`, embeddings `[N, D]` and distributions `[N, C]` of a split, without augmentation.

    Args:
        model: its query encoder is used, in inference mode.
        dataset: the data.
        split: name of the split.
        config: resolved settings.
        rows: indices of the samples to encode; None for the whole split.
    """
    samples = dataset.splits[split]
    if rows is not None:
        samples = Split(samples.inputs[rows], samples.labels[rows])
    batches = evaluation_batches(samples, batch_size=config.batch_size, image_size=config.image_size)
    outputs = tf.function(model, reduce_retracing=True, autograph=False)
    with naming_unreadable(lambda: samples.inputs):
        encoded = [outputs(inputs) for inputs, _ in batches]
    return {name: np.concatenate([each[name] for each in encoded]) for name in encoded[0]}


def judge_by_neighbours(
    model: ContrastivePretrainer, dataset: MultiLabelDataset, config: PretrainConfig
) -> float | None:
    """MAP on validation when labels are predicted from the nearest training samples; None without a labelled sample."""
    rows = bank_rows(len(dataset.splits["train"]))
    bank = encode(model, dataset, "train", config, rows)["features"]
    features = encode(model, dataset, "validation", config)["features"]
    return neighbour_mean_average_precision(
        features, dataset.splits["validation"].labels, bank, dataset.splits["train"].labels[rows]
    )
