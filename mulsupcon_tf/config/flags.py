"""The settings of pretraining and of fine-tuning, from whose fields the command line flags are made."""

import dataclasses

from mulsupcon_tf.config.common_flags import TrainingConfig, require_frozen_backbone
from mulsupcon_tf.config.fields import flag
from mulsupcon_tf.utils.choices import (
    ALPHA,
    AVERAGES,
    BETA,
    CALIBRATIONS,
    CLASS_WEIGHTS,
    CLD_KERNELS,
    DEFAULT_LOSS,
    HEADS,
    LOSSES,
    METHODS,
    MOMENTUM,
    OWN_DISTRIBUTIONS,
    RBF_SIGMA,
    SELECTIONS,
    TEMPERATURE,
    UNSUPERVISED_METHODS,
    WEIGHTED_LOSSES,
)
from mulsupcon_tf.utils.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Settings of `python -m mulsupcon_tf.pretrain`."""

    method: str = flag(
        "cld",
        "Contrastive method: cld and rld learn label distributions, by which keys count; the others are baselines, and "
        "truth, for a dataset that has true distributions, is a control: these in place of recovered ones.",
        choices=tuple(METHODS),
    )
    queue_size: int = flag(None, "Keys kept from earlier batches (Q). Default: by dataset.", minimum=1)
    embedding_size: int = flag(
        None, "Width of the contrastive embedding (D). Default: 256 for vectors, 128 for images.", minimum=2
    )
    temperature: float = flag(TEMPERATURE, "Temperature τ of the contrastive loss.", above=0)
    momentum: float = flag(MOMENTUM, "Momentum m of the key encoder.", minimum=0, maximum=1)
    momentum_schedule: str = flag(
        None,
        "constant, or ramp: m rises from 0.1 to --momentum as min(m, (1+t)/(10+t)) over steps t. Default: by dataset.",
        choices=("constant", "ramp"),
    )
    alpha: float = flag(ALPHA, "Weight α of the alignment of distributions to labels (cld, rld).", minimum=0)
    beta: float = flag(BETA, "Weight β of the squared norm of the distribution layer (cld, rld).", minimum=0)
    cld_kernel: str = flag(
        CLD_KERNELS[0],
        "cld: kernel between samples, made of what the paper calls C² in its equation (10): the log-softmax of a key among all keys, no "
        "square. softmax: exp(C²), near keys count most; negative: −C²; printed: C², which diverges.",
        choices=CLD_KERNELS,
    )
    rbf_sigma: float = flag(RBF_SIGMA, "rld: width σ of the RBF kernel.", above=0)
    own_distribution: str = flag(
        OWN_DISTRIBUTIONS[0],
        "cld, rld: whether the contrastive loss moves the distribution of the anchor's own key (live) or not (constant).",
        choices=OWN_DISTRIBUTIONS,
    )
    average: str = flag(
        AVERAGES[0], "mulsupcon: average over (anchor, label) pairs, as published, or over anchors.", choices=AVERAGES
    )
    bce_weight: float = flag(
        None,
        "Weight of binary cross-entropy on a linear layer beside the contrastive loss; images need it to begin to learn. "
        "Default: 1 for images, 0 for vectors and for self, which reads no labels.",
        minimum=0,
    )
    bce_warmup_epochs: float = flag(
        0.0, "Epochs of binary cross-entropy alone before the contrastive loss joins.", minimum=0
    )
    gradient_accumulation_steps: int = flag(
        1,
        "Parts that a batch is cut into to fit a small device; keys are those of the whole batch, gradients are summed.",
        minimum=1,
    )
    monitor_every: int = flag(
        None,
        "Epochs between two checks of the encoder by nearest neighbours on validation (knn_mAP); 0: never. "
        "Default: 10 for image files, else 0; 0 with --validation_fraction=0.",
        minimum=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.init_from:
            require_frozen_backbone(self)
        if self.bce_weight and self.method in UNSUPERVISED_METHODS:
            raise InputError(
                f"--method={self.method} reads no labels, binary cross-entropy does. Received: --bce_weight={self.bce_weight:g}"
            )
        if self.batch_size is not None and self.batch_size % self.gradient_accumulation_steps:
            raise InputError(
                "--batch_size must be a multiple of --gradient_accumulation_steps. "
                f"Received: --batch_size={self.batch_size} --gradient_accumulation_steps={self.gradient_accumulation_steps}"
            )
        if self.monitor_every and self.validation_fraction == 0:
            raise InputError(
                "--monitor_every above 0 needs a validation split: each of its samples would be its own neighbour in train. "
                f"Received: --monitor_every={self.monitor_every} --validation_fraction=0"
            )
        if self.bce_warmup_epochs and self.bce_weight == 0:
            raise InputError("--bce_warmup_epochs needs a positive --bce_weight. Received: --bce_weight=0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Settings of `python -m mulsupcon_tf.finetune`."""

    pretrained: str | None = flag(
        None,
        "Run directory of a pretraining. Without it the classifier starts from --backbone_weights or random ones: BCE only.",
        path=True,
    )
    linear_probe: bool = flag(False, "Freeze the pretrained backbone and train the linear layer alone.")
    backbone_learning_rate_scale: float = flag(
        None,
        "Learning rate of the backbone as a multiple of the head's. Default: 0.1 for images with --pretrained or "
        "--backbone_weights, else 1, and 1 on digits.",
        minimum=0,
    )
    head: str = flag(
        None,
        "Linear layer of the classifier: reuse that of the pretraining's binary cross-entropy or distributions, where it has "
        "one; or a fresh one. Default: reuse; fresh with --linear_probe.",
        choices=HEADS,
    )
    loss: str = flag(
        DEFAULT_LOSS,
        "Loss: bce (binary cross-entropy); asl (asymmetric focusing); two_way (highest negatives against lowest positives, by "
        "sample and by label); zlpr (the same by sample, around 0).",
        choices=tuple(LOSSES),
    )
    class_weights: str = flag(
        CLASS_WEIGHTS[0],
        "bce, asl: none; or balanced, presence and absence of a label count alike in the whole of train, however rare it is.",
        choices=CLASS_WEIGHTS,
    )
    select_by: str = flag(
        None,
        "Epoch whose weights are kept: the one of the best validation mAP, of the lowest validation loss, or the last. "
        "Default: mAP; last with --validation_fraction=0.",
        choices=SELECTIONS,
    )
    patience: int | None = flag(
        None,
        "Stop when the value named by --select_by has not improved for this many epochs. Default: never.",
        minimum=1,
    )
    ema_momentum: float = flag(
        0.0,
        "Momentum of a moving average of the weights over the steps, which is validated and kept in place of the weights "
        "themselves; 0: none.",
        minimum=0,
        below=1,
    )
    mix_neighbours: bool = flag(
        False,
        "Mix the labels of the nearest training samples into the probabilities; how many, how near and what share is chosen on "
        "validation. The samples are stored in the model.",
    )
    calibration: str = flag(
        CALIBRATIONS[0],
        "temperature: probabilities are made of logits as fits validation best, by a temperature and, where the loss gives zero "
        "another meaning, an offset; none: by the sigmoid. Without a validation split: none.",
        choices=CALIBRATIONS,
    )
    threshold: str = flag(
        None,
        "Decision thresholds: validation (chosen there, one per metric), per_label (and one per label, near the common one where it "
        "has few positives), a number, or paper (best on test: optimistic). "
        "Default: validation; paper with --validation_fraction=0.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        needing = [f"--{name}" for name in ("patience", "select_by") if getattr(self, name) not in (None, "last")]
        if self.validation_fraction == 0 and needing:
            raise InputError(f"{needing[0]} needs a validation split. Received: --validation_fraction=0")
        if self.threshold in ("validation", "per_label") and self.validation_fraction == 0:
            raise InputError(
                f"--threshold={self.threshold} needs a validation split. Received: --validation_fraction=0"
            )
        if self.mix_neighbours and self.validation_fraction == 0:
            raise InputError("--mix_neighbours needs a validation split. Received: --validation_fraction=0")
        if self.select_by == "last" and self.patience is not None:
            raise InputError(f"--patience needs --select_by=mAP or loss. Received: --patience={self.patience}")
        if self.class_weights != CLASS_WEIGHTS[0] and self.loss not in WEIGHTED_LOSSES:
            raise InputError(
                f"--class_weights={self.class_weights} belongs to --loss={' or '.join(WEIGHTED_LOSSES)}. "
                f"Received: --loss={self.loss}"
            )
        if self.loss == "two_way" and self.strategy != "none":
            raise InputError(
                "--loss=two_way compares the samples of a whole batch and needs --strategy=none. "
                f"Received: --strategy={self.strategy}"
            )
        if not (self.pretrained or self.init_from):
            require_frozen_backbone(self)
            if self.freeze_backbone and self.linear_probe:
                raise InputError(
                    "--linear_probe with --freeze_backbone needs --pretrained=DIR, a pretraining with --freeze_backbone. "
                    "Received: none"
                )
        if self.pretrained and self.backbone_weights and not self.freeze_backbone:
            raise InputError(
                "--pretrained brings the backbone's weights; leave out --backbone_weights. "
                f"Received: --pretrained={self.pretrained} --backbone_weights={self.backbone_weights}"
            )
        if self.linear_probe and self.unfreeze_from:
            raise InputError(
                f"--unfreeze_from trains a part of the backbone, --linear_probe none. Received: --unfreeze_from={self.unfreeze_from}"
            )
        if self.linear_probe and not (self.pretrained or self.backbone_weights or self.init_from):
            raise InputError(
                "--linear_probe needs --pretrained=DIR, a pretraining's run directory, or --backbone_weights. Received: none"
            )
