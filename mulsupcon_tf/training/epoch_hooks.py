"""What is looked at after each epoch: of pretraining queue, histograms, neighbours, collapse; of fine-tuning validation."""

import logging
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.evaluation.metrics import mean_average_precision
from mulsupcon_tf.input_pipeline.batches import EVALUATION_BATCH, evaluation_batches
from mulsupcon_tf.input_pipeline.image_files import naming_unreadable
from mulsupcon_tf.models.pretrainer import ContrastivePretrainer
from mulsupcon_tf.optimizers.averaged_weights import averaged_weights
from mulsupcon_tf.training.checkpoints import TrainingState
from mulsupcon_tf.training.tensorboard import TensorBoard
from mulsupcon_tf.utils.graphs import compiled

HISTOGRAMS_PER_RUN = 20
# Collapse: for so many epochs the loss has stayed within 1% of ln K, its value when all keys look alike, and has moved
# by less than 0.05% of it. On many labels a healthy run may stay near ln K for long, but it moves.
STALL_EPOCHS = 5
STALL_DISTANCE = 0.01
STALL_MOVEMENT = 0.0005
COLLAPSED_DEVIATION = 0.05


class PretrainingWatch:
    """The epoch hook of pretraining; it reads the model and changes nothing in it.

    Args:
        model: the model in training.
        config: resolved settings.
        tensorboard: gets the histograms.
        batch: samples `[B, ...]` and labels `[B, C]` that the histograms are drawn from.
        last_step: the step that ends the run.
        judge: gives the mAP of nearest neighbours on validation, or None where validation has no label.
    """

    def __init__(
        self,
        model: ContrastivePretrainer,
        config: PretrainConfig,
        tensorboard: TensorBoard,
        batch: tuple[np.ndarray, np.ndarray],
        *,
        last_step: int,
        judge: Callable[[], float | None],
    ):
        self.model, self.config, self.tensorboard = model, config, tensorboard
        self.samples, self.labels = batch
        self.last_step, self.judge = last_step, judge
        self.histogram_every = max(1, config.epochs // HISTOGRAMS_PER_RUN)
        self.warned = False
        self.relative_losses: list[float] = []

    def epoch_ended(self, epoch: int, record: dict[str, Any]) -> bool:
        """Adds the queue's fill and, when due, `knn_mAP` to the record; logs histograms; warns of collapse once."""
        record["queue_fill"] = float(self.model.queue.fill.numpy()) / self.model.queue.capacity
        last = record["step"] >= self.last_step
        if epoch % self.histogram_every == 0 or last:
            self._log_histograms(record["step"])
        if self.config.monitor_every and (epoch % self.config.monitor_every == 0 or last):
            judged = self.judge()
            if judged is not None:
                record["knn_mAP"] = judged
        has_losses = "contrastive_loss" in record  # not where every step of the epoch was bad
        if epoch > self.config.bce_warmup_epochs and has_losses and not self.warned:
            self._warn_of_collapse(epoch, record)
        return False

    def _log_histograms(self, step: int) -> None:
        outputs = self.model(self.samples)
        if "distribution" in outputs:
            distributions = np.asarray(outputs["distribution"])
            values = {"distribution": distributions, "distribution_of_own_labels": distributions[self.labels > 0]}
            self.tensorboard.log_histograms(values, step)

    def _warn_of_collapse(self, epoch: int, record: dict[str, Any]) -> None:
        # What the loss is where all keys look alike; without a positive there is nothing to see.
        alike = record["log_num_keys"] * record["positives"]
        if not alike > 0:
            return
        self.relative_losses.append(record["contrastive_loss"] / alike)
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
            "warning: embeddings look collapsed in epoch %d: contrastive loss %.3f (%.3f: all keys alike), embedding deviation "
            "%.3f (1: spread, 0: one point). Try --bce_weight=1, --bce_warmup_epochs=5 or --momentum_schedule=ramp",
            epoch,
            record["contrastive_loss"],
            alike,
            record["embedding_std"],
        )


class Validation:
    """The epoch hook of fine-tuning: validates, keeps the best weights and says when to stop.

    Args:
        model: the classifier in training; what it was compiled with is the loss that is looked at.
        dataset: its "validation" split is looked at.
        config: resolved settings; with `--select_by=last` nothing is validated and the last weights are kept.
        state: gets the best weights.
    """

    def __init__(self, model: keras.Model, dataset: MultiLabelDataset, config: FinetuneConfig, state: TrainingState):
        self.model, self.config, self.state = model, config, state
        split = dataset.splits["validation"]
        batches = evaluation_batches(split, batch_size=EVALUATION_BATCH, image_size=config.image_size)
        # Decoded files would not fit into memory; `--cache` keeps them small.
        self.batches = batches if dataset.on_disk else batches.cache()
        self.inputs, self.labels = split.inputs, split.labels

        def loss_and_logits(inputs, labels):
            logits = model(inputs, training=False)
            return model.loss(labels, logits) * tf.cast(tf.shape(labels)[0], tf.float32), logits

        self.loss_and_logits = compiled(loss_and_logits)

    def epoch_ended(self, epoch: int, record: dict[str, Any]) -> bool:
        """Adds `val_loss` and `val_mAP` to the record; True when `--patience` epochs have not improved on the best."""
        if self.config.select_by == "last":
            return False
        with averaged_weights(self.model):
            self._judge(epoch, record)
        return self.config.patience is not None and epoch - self.state.best_epoch >= self.config.patience

    def _judge(self, epoch: int, record: dict[str, Any]) -> None:
        with naming_unreadable(lambda: self.inputs):
            found = [self.loss_and_logits(*batch) for batch in self.batches]
        logits = np.concatenate([logits for _, logits in found])
        record["val_loss"] = math.fsum(float(loss) for loss, _ in found) / len(self.labels)
        finite = bool(np.isfinite(logits).all())
        if finite and (self.labels > 0).any():
            record["val_mAP"] = mean_average_precision(self.labels, logits)
        score = record.get("val_mAP") if self.config.select_by == "mAP" else -record["val_loss"]
        if score is None or not math.isfinite(score):
            score = -math.inf
        if score > self.state.best_score or not self.state.best_weights:
            self.state.best_score, self.state.best_epoch = score, epoch
            self.state.best_weights = [np.asarray(variable) for variable in self.model.variables]
