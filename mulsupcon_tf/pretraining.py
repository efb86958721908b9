"""Pretraining from a config to a finished run directory."""

import functools
import logging
from typing import Any

import numpy as np
import tensorflow as tf

from mulsupcon_tf.atomic_file import replacing
from mulsupcon_tf.config import PretrainConfig, require
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.decoded_cache import with_decoded_cache
from mulsupcon_tf.default_settings import resolve_pretraining
from mulsupcon_tf.encoder import build_backbone, build_projection_head
from mulsupcon_tf.image_files import naming_unreadable, without_unreadable
from mulsupcon_tf.input_pipeline import (
    evaluation_batches,
    model_input_shape,
    steps_per_epoch,
    training_batches,
    training_inputs,
)
from mulsupcon_tf.label_distribution import label_weights
from mulsupcon_tf.monitoring import TensorBoard
from mulsupcon_tf.optimization import AdamW, MomentumRamp, StepSchedule, warmup_cosine
from mulsupcon_tf.pretrainer import ContrastivePretrainer
from mulsupcon_tf.recovery_evaluation import judge_recovery
from mulsupcon_tf.run_directory import RunDirectory
from mulsupcon_tf.training import TrainingState, prepare_process, summary_of_run, train

HISTOGRAMS_PER_RUN = 20
# Collapse: for so many epochs the loss has stayed within 1% of ln K, its value when all keys look alike, and has moved
# by less than 0.05% of it. On many labels a healthy run may stay near ln K for long, but it moves.
STALL_EPOCHS = 5
STALL_DISTANCE = 0.01
STALL_MOVEMENT = 0.0005
COLLAPSED_DEVIATION = 0.05


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
    run = RunDirectory(config.workdir)
    dataset = load_dataset(config.dataset, data_dir=config.data_dir)
    config = resolve_pretraining(config, input_shape=dataset.input_shape, num_train=len(dataset.splits["train"]))
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
    steps = steps_per_epoch(dataset.splits["train"], config.batch_size)
    prepare_process(config)
    model = build_pretrainer(config, dataset, steps)

    def batches_from(step: int) -> tf.data.Dataset:
        return training_batches(
            dataset, batch_size=config.batch_size, num_views=2, augmentation=config.augmentation,
            image_size=config.image_size, seed=config.seed, first_step=step,
        )  # fmt: skip

    inputs_of = functools.partial(training_inputs, dataset, batch_size=config.batch_size, seed=config.seed)
    with naming_unreadable(functools.partial(inputs_of, 0, 1)):
        views, sample_labels = next(iter(batches_from(0)))
    run.claim(config)
    tensorboard = TensorBoard(run.tensorboard)
    watch = _PretrainingWatch(model, config, tensorboard, (np.asarray(views[0]), np.asarray(sample_labels)))
    if dataset.kind == "image":
        tensorboard.log_views(views[0], views[1], step=0)
    state = train(
        model, batches_from, config=config, steps_per_epoch=steps, run=run, tensorboard=tensorboard,
        state=TrainingState(), on_epoch_end=watch.epoch_ended, inputs_of=inputs_of,
    )  # fmt: skip
    outputs = encode(model, originals, "test", config)
    tensorboard.log_projector(outputs["embedding"], dataset.splits["test"].labels, dataset.label_names)
    tensorboard.close()
    run.write_test_outputs(outputs)
    summary = summary_of_run(config, dataset, state, phase="pretrain", method=config.method)
    if model.recovers and dataset.splits["test"].distributions is not None:
        summary["recovery"] = judge_recovery(dataset, outputs["distribution"], outputs["features"], config.rho)
    with replacing(run.encoder_weights) as temporary:
        model.backbone.save_weights(temporary)
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
        config.backbone, model_input_shape(dataset, config.image_size), train_features=dataset.train_features
    )
    model = ContrastivePretrainer(
        backbone, build_projection_head(backbone.output_shape[-1], config.embedding_size), dataset.num_labels,
        method=config.method, queue_size=config.queue_size, temperature=config.temperature,
        temperature_d=config.temperature_d, alpha=config.alpha, beta=config.beta, gamma=config.gamma, rho=config.rho,
        momentum=MomentumRamp(config.momentum) if config.momentum_schedule == "ramp" else config.momentum,
        rbf_sigma=config.rbf_sigma, recovery_gradient=config.recovery_gradient, average=config.average,
        bce_weight=config.bce_weight,
        contrastive_weight=StepSchedule(round(config.bce_warmup_epochs * steps_per_epoch)) if config.bce_warmup_epochs else 1.0,
    )  # fmt: skip
    schedule = warmup_cosine(
        config.learning_rate, total_steps=config.epochs * steps_per_epoch,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
    )  # fmt: skip
    model.compile(optimizer=AdamW(schedule, decay=config.weight_decay))
    return model


def encode(
    model: ContrastivePretrainer, dataset: MultiLabelDataset, split: str, config: PretrainConfig
) -> dict[str, np.ndarray]:
    """Features `[N, R]`, embeddings `[N, D]` and distributions `[N, C]` of a split, without augmentation."""
    batches = evaluation_batches(dataset.splits[split], batch_size=config.batch_size, image_size=config.image_size)
    with naming_unreadable(lambda: dataset.splits[split].inputs):
        return model.predict(batches.map(lambda inputs, labels: inputs), verbose=0)


class _PretrainingWatch:
    """What is looked at after each epoch of pretraining."""

    def __init__(self, model: ContrastivePretrainer, config: PretrainConfig, tensorboard: TensorBoard, batch: tuple):
        self.model, self.config, self.tensorboard = model, config, tensorboard
        self.samples, self.labels = batch
        self.histogram_every = max(1, config.epochs // HISTOGRAMS_PER_RUN)
        self.warned = False
        self.relative_losses: list[float] = []

    def epoch_ended(self, epoch: int, record: dict[str, Any]) -> bool:
        """Adds the queue's fill to the record, logs histograms now and then, warns of collapse once."""
        record["queue_fill"] = float(self.model.queue.fill) / self.model.queue.capacity
        if epoch % self.histogram_every == 0 or epoch == self.config.epochs:
            self._log_histograms(record["step"])
        if epoch > self.config.bce_warmup_epochs and not self.warned:
            self._warn_of_collapse(epoch, record)
        return False

    def _log_histograms(self, step: int) -> None:
        distributions = self.model(self.samples)["distribution"]
        values = {"distribution": np.asarray(distributions)}
        if self.model.recovers:
            weights = np.asarray(label_weights(distributions, self.labels, rho=self.config.rho))
            values["label_weights"] = weights[self.labels > 0]
        self.tensorboard.log_histograms(values, step)

    def _warn_of_collapse(self, epoch: int, record: dict[str, Any]) -> None:
        self.relative_losses.append(record["contrastive_loss"] / record["log_num_keys"])
        recent = self.relative_losses[-STALL_EPOCHS - 1 :]
        stalled = (
            len(recent) > STALL_EPOCHS
            and abs(recent[-1] - 1.0) < STALL_DISTANCE
            and max(recent) - min(recent) < STALL_MOVEMENT
        )
        collapsed = record["embedding_std"] < COLLAPSED_DEVIATION
        if not (stalled or collapsed):
            return
        self.warned = True
        logging.getLogger("mulsupcon_tf").warning(
            "warning: embeddings look collapsed in epoch %d: contrastive loss %.3f (ln K = %.3f: all keys alike), embedding deviation "
            "%.3f (1: spread, 0: one point). Try --bce_weight=1, --bce_warmup_epochs=5 or --momentum_schedule=ramp",
            epoch, record["contrastive_loss"], record["log_num_keys"], record["embedding_std"],
        )  # fmt: skip
