"""What both phases begin and end with: the process, the models of a resolved config, the common part of a summary."""

from typing import Any

import keras

from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.input_pipeline.batches import model_input_shape
from mulsupcon_tf.losses.classification import build_loss
from mulsupcon_tf.losses.method import Method
from mulsupcon_tf.losses.registry import build_method
from mulsupcon_tf.models.backbone_weights import Standardisation
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.models.heads import build_projection_head
from mulsupcon_tf.models.partial_freezing import freeze_before
from mulsupcon_tf.models.pretrainer import ContrastivePretrainer
from mulsupcon_tf.optimizers.registry import build_optimizer
from mulsupcon_tf.optimizers.schedules import MomentumRamp, StepSchedule, build_schedule
from mulsupcon_tf.training.checkpoints import TrainingState, versions
from mulsupcon_tf.utils.choices import DISTRIBUTION_METHODS, READ_BY


def prepare_process(config: TrainingConfig) -> None:
    """Sets the process-wide seed and arithmetic; call it before any layer is made."""
    keras.utils.set_random_seed(config.seed)
    policies = {"none": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
    keras.mixed_precision.set_dtype_policy(policies[config.mixed_precision])


def summary_of_run(
    config: TrainingConfig,
    dataset: MultiLabelDataset,
    state: TrainingState,
    *,
    phase: str,
    method: str,
    input_shape: tuple[int, ...],
) -> dict[str, Any]:
    """The part of `summary.json` that both phases have.

    Args:
        config: resolved settings.
        dataset: what was trained on.
        state: after training.
        phase: "pretrain" or "finetune".
        method: contrastive method, or "bce".
        input_shape: of a sample as the whole network takes it.
    """
    changed = {"changed_data": state.changed_data} if state.changed_data else {}
    return {
        "phase": phase,
        "dataset": dataset.name,
        "data_fingerprint": state.data,
        **changed,
        "method": method,
        "seed": config.seed,
        "backbone": config.backbone,
        "input_shape": list(input_shape),
        "label_names": list(dataset.label_names),
        "split_sizes": {name: len(split) for name, split in dataset.splits.items()},
        "label_frequencies": [round(float(share), 6) for share in dataset.splits["train"].frequencies],  # in train
        "epochs": state.epoch,
        "steps": state.step,
        "seconds": round(state.seconds, 3),
        "samples_per_second": _samples_per_second(state, config),
        "versions": versions(),
    }


def _samples_per_second(state: TrainingState, config: TrainingConfig) -> float | None:
    """As the log has it of each epoch, of the whole run: without compiling; None where there was only one step."""
    if not state.timed_steps:
        return None
    return round(state.timed_steps * config.batch_size / state.timed_seconds, 1)


def method_of(config: PretrainConfig) -> Method:
    """The contrastive method of a config, with the settings that it reads."""
    settings = {name: getattr(config, name) for name, methods in READ_BY.items() if config.method in methods}
    return build_method(config.method, temperature=config.temperature, **settings)


def _trained_backbone(
    config: TrainingConfig, dataset: MultiLabelDataset, standardisation: Standardisation | None, *, restored: bool
) -> keras.Model:
    """The backbone of a resolved config, of which a part may be frozen."""
    if standardisation is None and dataset.train_features is not None:
        standardisation = Standardisation.of(dataset.train_features)
    name, weights = config.trained_network
    shape = model_input_shape(dataset, config.image_size)
    # The file of a run that goes on may be gone, and is not needed.
    backbone = build_backbone(name, shape, standardisation=standardisation, weights=None if restored else weights)
    if config.unfreeze_from:
        freeze_before(backbone, config.unfreeze_from)
    return backbone


def contrastive_steps(config: PretrainConfig, steps_per_epoch: int) -> int:
    """In how many steps of a run the contrastive loss takes part; 0 where `--bce_warmup_epochs` takes all.

    Args:
        config: resolved settings.
        steps_per_epoch: steps in one epoch.
    """
    return max(0, config.total_steps(steps_per_epoch) - _held_back(config, steps_per_epoch))


def warnings_of(config: PretrainConfig, steps_per_epoch: int, num_labels: int) -> list[str]:
    """What is allowed in a pretraining and hardly meant, in a line each.

    Args:
        config: resolved settings.
        steps_per_epoch: steps in one epoch.
        num_labels: C.
    """
    lines = []
    if num_labels == 1 and config.method in DISTRIBUTION_METHODS:
        lines.append(
            f"warning: of one label --method={config.method} has no distribution to learn, it is the constant 1; "
            "--method=mulsupcon takes the same keys without one"
        )
    if not contrastive_steps(config, steps_per_epoch):
        lines.append(
            "warning: --bce_warmup_epochs takes all steps, so that the contrastive loss never joins: this is a training by "
            "binary cross-entropy"
        )
    return lines


def _held_back(config: PretrainConfig, steps_per_epoch: int) -> int:
    return round(config.bce_warmup_epochs * steps_per_epoch)


def build_pretrainer(
    config: PretrainConfig,
    dataset: MultiLabelDataset,
    steps_per_epoch: int,
    standardisation: Standardisation | None = None,
    *,
    restored: bool = False,
) -> ContrastivePretrainer:
    """Builds and compiles the model of a resolved config.

    Args:
        config: resolved settings.
        dataset: gives C, the shape of a sample and the statistics that vectors are standardised by.
        steps_per_epoch: steps in one epoch.
        standardisation: these statistics, where they are known already.
        restored: whether all weights come from a checkpoint, so that those of `--backbone_weights` are not read.
    """
    backbone = _trained_backbone(config, dataset, standardisation, restored=restored)
    held_back = _held_back(config, steps_per_epoch)
    model = ContrastivePretrainer(
        backbone,
        build_projection_head(backbone.output_shape[-1], config.embedding_size),
        dataset.num_labels,
        method=method_of(config),
        queue_size=config.queue_size,
        momentum=MomentumRamp(config.momentum) if config.momentum_schedule == "ramp" else config.momentum,
        bce_weight=config.bce_weight,
        contrastive_weight=StepSchedule(held_back) if held_back else 1.0,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
    )
    model.compile(
        optimizer=build_optimizer(config.optimizer, build_schedule(config, steps_per_epoch), config.weight_decay)
    )
    return model


def build_classifier(
    config: FinetuneConfig,
    dataset: MultiLabelDataset,
    steps_per_epoch: int,
    standardisation: Standardisation | None = None,
    *,
    restored: bool = False,
) -> MultiLabelClassifier:
    """Builds and compiles the classifier of a resolved config, with random weights.

    Args:
        config: resolved settings.
        dataset: gives C, the shape of a sample, the statistics that vectors are standardised by, and the labels that
            `--class_weights` are made of.
        steps_per_epoch: steps in one epoch.
        standardisation: these statistics, where they are known already.
        restored: whether all weights come from a checkpoint, so that those of `--backbone_weights` are not read.
    """
    backbone = _trained_backbone(config, dataset, standardisation, restored=restored)
    model = MultiLabelClassifier(backbone, dataset.num_labels, linear_probe=config.linear_probe)
    schedule = build_schedule(config, steps_per_epoch)
    optimizer = build_optimizer(config.optimizer, schedule, config.weight_decay, ema_momentum=config.ema_momentum)
    optimizer.scale_learning_rate(backbone.trainable_variables, config.backbone_learning_rate_scale)
    labels = dataset.splits["train"].labels
    model.compile(optimizer=optimizer, loss=build_loss(config.loss, class_weights=config.class_weights, labels=labels))
    return model
