"""Fine-tuning or linear probing from a config to a finished run directory."""

import functools
import logging
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mulsupcon_tf import atomic_file
from mulsupcon_tf.atomic_file import replacing
from mulsupcon_tf.bad_steps import describe_batch
from mulsupcon_tf.classifier import MultiLabelClassifier
from mulsupcon_tf.config import FinetuneConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.datasets.splitting import with_share_of_train
from mulsupcon_tf.decoded_cache import with_decoded_cache
from mulsupcon_tf.default_settings import resolve_finetuning
from mulsupcon_tf.devices import Devices, open_devices
from mulsupcon_tf.encoder import build_backbone
from mulsupcon_tf.errors import InputError
from mulsupcon_tf.evaluation import parse_threshold
from mulsupcon_tf.finetuned_run import EVALUATION_BATCH, judge, predict_split
from mulsupcon_tf.image_files import naming_unreadable, with_pixel_limit, without_unreadable
from mulsupcon_tf.input_pipeline import (
    evaluation_batches,
    model_input_shape,
    steps_per_epoch,
    training_batches,
    training_inputs,
)
from mulsupcon_tf.monitoring import TensorBoard
from mulsupcon_tf.optimization import build_optimizer, warmup_cosine
from mulsupcon_tf.projector import write_projector
from mulsupcon_tf.run_directory import RunDirectory, read_flags, run_directory_of
from mulsupcon_tf.saved_model import in_float32, write_saved_model
from mulsupcon_tf.settings import require
from mulsupcon_tf.training import prepare_process, summary_of_run, train
from mulsupcon_tf.training_state import TrainingState


def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Trains a classifier on a (pretrained) backbone, judges it, and leaves `model.keras` and `saved_model/`.

    The weights that are kept are those of the epoch with the lowest validation loss.

    Args:
        config: settings; those that are None are filled in for the dataset.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: a setting, the data, the pretraining or the run directory is wrong; nothing has been written then.
    """
    require(config, "workdir")
    parse_threshold(config.threshold)
    devices = open_devices(config)
    with run_directory_of(config.workdir, is_chief=devices.is_chief) as run, devices.together():
        return _finetune(config, run, devices)


def _finetune(config: FinetuneConfig, run: RunDirectory, devices: Devices) -> dict[str, Any]:
    pretrained = RunDirectory(config.pretrained) if config.pretrained else None
    if pretrained:
        config = _like_pretraining(config, pretrained)
    dataset = load_dataset(config.dataset, data_dir=config.data_dir)
    dataset = with_pixel_limit(dataset, config.max_image_pixels)
    config = resolve_finetuning(config, input_shape=dataset.input_shape)
    devices.check(config.batch_size)
    run.check(config)
    if run.finished:
        logging.getLogger("mulsupcon_tf").info("%s is finished; nothing to do", run.path)
        return run.read_summary()
    if config.skip_bad_images:
        run.claim(config)
        dataset = without_unreadable(dataset, run.bad_images, data_dir=config.data_dir, scan=True)
    originals = dataset  # what is judged is decoded as a served image is
    dataset = with_share_of_train(dataset, config.label_fraction, config.seed)
    if config.cache:
        dataset = with_decoded_cache(dataset, config.image_size)
    steps = steps_per_epoch(dataset.splits["train"], config.batch_size)
    prepare_process(config)
    with devices.strategy.scope():
        model = build_classifier(config, dataset, steps, _standardised_by(config, pretrained, originals, dataset))
    if pretrained:
        load_pretrained_backbone(model.backbone, pretrained, config, dataset)

    def batches_from(step: int) -> tf.data.Dataset:
        return training_batches(
            dataset, batch_size=config.batch_size, num_views=1, image_size=config.image_size, seed=config.seed,
            # Masked features help to learn a representation and hurt a classifier that is to read them all.
            augmentation=config.augmentation if dataset.kind == "image" else None, first_step=step,
            shard=devices.shard,
        )  # fmt: skip

    run.claim(config)
    tensorboard = TensorBoard(run.tensorboard)
    state = TrainingState(data=originals.fingerprint())
    validation = _Validation(model, dataset, config, state)
    train(
        model, batches_from, config=config, steps_per_epoch=steps, run=run, tensorboard=tensorboard, state=state,
        on_epoch_end=validation.epoch_ended,
        inputs_of=functools.partial(training_inputs, dataset, batch_size=config.batch_size, seed=config.seed),
        describe_batch=functools.partial(describe_batch, dataset, batch_size=config.batch_size, seed=config.seed),
        devices=devices,
    )  # fmt: skip
    for variable, array in zip(model.variables, state.best_weights, strict=True):
        variable.assign(array)
    model = in_float32(model)  # what is judged is what is saved and served
    outputs = {name: predict_split(model, originals, name, config.image_size) for name in ("validation", "test")}
    results = judge(dataset, outputs, config.threshold)
    write_projector(run.tensorboard, outputs["test"]["embedding"], originals)
    tensorboard.close()
    run.write_test_outputs(outputs["test"])
    method = pretrained.read_summary()["method"] if pretrained else "bce"
    summary = (
        summary_of_run(config, dataset, state, phase="finetune", method=method)
        | {"best_epoch": state.best_epoch}
        | results
    )
    with replacing(run.keras_model) as temporary:
        model.save(temporary)
    write_saved_model(
        model,
        run.saved_model,
        label_names=dataset.label_names,
        thresholds=results["thresholds"],
        max_image_pixels=config.max_image_pixels,
    )
    run.write_summary(summary)
    return summary


def _standardised_by(
    config: FinetuneConfig, pretrained: RunDirectory | None, whole: MultiLabelDataset, dataset: MultiLabelDataset
) -> np.ndarray | None:
    """`[N, F]` the vectors whose mean and deviation standardise the input: those that the encoder learnt with."""
    flags = read_flags(pretrained.flags_file) if pretrained else {}
    if dataset.kind == "image" or flags.get("dataset") != config.dataset:
        return dataset.train_features
    fraction = float(flags["label_fraction"]) if "label_fraction" in flags else None
    return with_share_of_train(whole, fraction, int(flags["seed"])).train_features


def build_classifier(
    config: FinetuneConfig, dataset: MultiLabelDataset, steps_per_epoch: int, train_features: np.ndarray | None
) -> MultiLabelClassifier:
    """Builds and compiles the classifier of a resolved config, with random weights.

    Args:
        config: resolved settings.
        dataset: gives C and the shape of a sample.
        steps_per_epoch: steps in one epoch.
        train_features: `[N, F]` vectors that the input is standardised by; None for images.
    """
    backbone = build_backbone(
        config.backbone, model_input_shape(dataset, config.image_size), train_features=train_features,
        weights=config.backbone_weights,
    )  # fmt: skip
    model = MultiLabelClassifier(backbone, dataset.num_labels, linear_probe=config.linear_probe)
    schedule = warmup_cosine(
        config.learning_rate, total_steps=config.epochs * steps_per_epoch,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch), final_scale=config.final_learning_rate_scale,
    )  # fmt: skip
    optimizer = build_optimizer(config.optimizer, schedule, config.weight_decay)
    optimizer.scale_learning_rate(backbone.trainable_variables, config.backbone_learning_rate_scale)
    model.compile(optimizer=optimizer, loss=keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def _like_pretraining(config: FinetuneConfig, pretrained: RunDirectory) -> FinetuneConfig:
    """Takes backbone and image size from the pretraining where the user left them open."""
    summary = pretrained.read_summary()
    if summary["phase"] != "pretrain":
        raise InputError(
            f"--pretrained must be the run directory of a pretraining. Received: {pretrained.path}, a {summary['phase']} run"
        )
    flags = read_flags(pretrained.flags_file)
    image_size = int(flags["image_size"]) if "image_size" in flags else None
    fill = {"backbone": flags["backbone"], "image_size": image_size}
    missing = {name: value for name, value in fill.items() if getattr(config, name) is None}
    return FinetuneConfig(**vars(config) | missing)


def load_pretrained_backbone(
    backbone: keras.Model, pretrained: RunDirectory, config: FinetuneConfig, dataset: MultiLabelDataset
) -> None:
    """Loads `encoder.weights.h5` into the backbone.

    Raises:
        InputError: the pretraining had another architecture or another shape of samples, or the file is damaged.
    """
    summary = pretrained.read_summary()
    there = (summary["backbone"], tuple(summary["input_shape"]))
    here = (config.backbone, model_input_shape(dataset, config.image_size))
    # Convolutions take any size of image; a dense layer takes only its own number of features.
    same_input = there[1] == here[1] if dataset.kind == "vector" else there[1][-1:] == here[1][-1:]
    if there[0] != here[0] or not same_input:
        raise InputError(
            f"--pretrained must have this run's architecture: --backbone={here[0]} on samples of shape {here[1]}. "
            f"Received: {pretrained.path} with --backbone={there[0]} on {there[1]}, pretrained on {summary['dataset']}"
        )
    try:
        written = summary.get("encoder_sha256")  # HDF5 has no checksum: a flipped bit would pass for a weight
        if written is not None and atomic_file.sha256(pretrained.encoder_weights) != written:
            raise ValueError("not the bytes that the pretraining wrote")
        backbone.load_weights(pretrained.encoder_weights)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"--pretrained must hold a whole encoder.weights.h5. Received: {pretrained.encoder_weights} ({error})"
        ) from error


class _Validation:
    """Validation loss after each epoch; keeps the best weights and says when to stop."""

    def __init__(self, model: keras.Model, dataset: MultiLabelDataset, config: FinetuneConfig, state: TrainingState):
        self.model, self.config, self.state = model, config, state
        batches = evaluation_batches(
            dataset.splits["validation"], batch_size=EVALUATION_BATCH, image_size=config.image_size
        )
        # Decoded files would not fit into memory; `--cache` keeps them small.
        self.batches = batches if dataset.on_disk else batches.cache()
        self.inputs = dataset.splits["validation"].inputs

        @tf.function
        def loss_sum(inputs, labels):
            losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, model(inputs, training=False))
            return tf.reduce_sum(tf.reduce_mean(losses, axis=-1)), tf.shape(labels)[0]

        self.loss_sum = loss_sum

    def epoch_ended(self, epoch: int, record: dict[str, Any]) -> bool:
        """Adds `val_loss` to the record; True when it has not improved for `--patience` epochs."""
        with naming_unreadable(lambda: self.inputs):
            sums = [[float(part) for part in self.loss_sum(*batch)] for batch in self.batches]
        loss = math.fsum(total for total, _ in sums) / math.fsum(count for _, count in sums)
        record["val_loss"] = loss
        if loss < self.state.best_loss or not self.state.best_weights:
            self.state.best_loss, self.state.best_epoch = loss, epoch
            self.state.best_weights = [np.asarray(variable) for variable in self.model.variables]
        return epoch - self.state.best_epoch >= self.config.patience
