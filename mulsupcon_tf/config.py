"""The settings of each binary: frozen, validated dataclasses from whose fields the command line flags are made.

A good value of some settings depends on the dataset: what suits a table of vectors does not suit images. Such a field is
None until `default_settings` fills it in; its type is that of the value. `flags.txt` in a run directory holds the
resolved values.
"""

import dataclasses
import re
from typing import Literal

from mulsupcon_tf.errors import InputError
from mulsupcon_tf.image_limits import MAX_IMAGE_PIXELS
from mulsupcon_tf.settings import Validated, flag

METHODS = ("cld", "rld", "mulsupcon", "any", "all", "jaccard", "self", "truth")
LABEL_WEIGHING_METHODS = ("cld", "rld", "mulsupcon", "truth")
BACKBONES = (
    "mlp", "resnet8", "resnet14", "resnet18", "resnet34", "resnet50", "resnet101",
    "efficientnetv2-b0", "efficientnetv2-s", "convnext-tiny", "convnext-small",
)  # fmt: skip
AUGMENTATIONS = ("mask", "crop", "simple", "simclr")
OPTIMIZERS = ("adamw", "sgd", "lars")
PRECISIONS = ("none", "bfloat16", "float16")
STRATEGIES = ("none", "mirrored", "multiworker")
SPLITS = ("train", "validation", "test")
REPRESENTATIONS = ("embedding", "features")
EXPORT_FORMATS = ("saved_model", "onnx", "litert")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(Validated):
    """What pretraining and fine-tuning have in common."""

    dataset: str = flag(
        "digits",
        "Name of the dataset, or its file format: digits, coco, voc2007, ..., csv, scene, yeast, ..., arff, hdf5, npz.",
    )
    data_dir: str | None = flag(None, "Folder that holds the dataset's files. `digits` needs none.")
    workdir: str = flag(None, "Run directory: settings, logs, checkpoints and results. Required.")
    epochs: int = flag(None, "Passes over the training split. Default: by dataset.", minimum=1)
    batch_size: int = flag(None, "Samples per step. Default: by dataset.", minimum=2)
    backbone: str = flag(
        None,
        "Network below the heads. Default: mlp for vectors, resnet8 for images in memory, resnet50 for image files.",
        choices=BACKBONES,
    )
    backbone_weights: str | None = flag(
        None,
        "Weights that the backbone starts from: imagenet (downloaded by Keras), or a .weights.h5 file. Default: random.",
    )
    label_fraction: float | None = flag(
        None,
        "Train on this share of the training samples, drawn by --seed with every label in proportion. Default: all.",
        above=0,
        maximum=1,
    )
    image_size: int | None = flag(
        None, "Side in pixels of what the network sees. Default: as stored; 224 for image files.", minimum=16
    )
    augmentation: str = flag(
        None,
        "What turns a sample into a view: mask (vectors); crop (digits), simple (crop, flip) or simclr (and colour, blur). "
        "Default: by dataset.",
        choices=AUGMENTATIONS,
    )
    cache: bool = flag(False, "Image files: decode each once and keep it in memory, small.")
    skip_bad_images: bool = flag(
        False, "Image files: look at all of them first, list those that cannot be decoded and leave them out."
    )
    max_image_pixels: int = flag(
        MAX_IMAGE_PIXELS,
        "Image files: largest that is decoded, height times width; larger ones count as broken. Exported models keep it.",
        minimum=1,
    )
    optimizer: str = flag("adamw", "adamw, sgd (momentum 0.9), or lars for batches of thousands.", choices=OPTIMIZERS)
    learning_rate: float = flag(None, "Peak learning rate. Default: by phase and dataset.", above=0)
    weight_decay: float = flag(
        1e-4,
        "Weight decay on kernels, decoupled (adamw) or in the gradient (sgd, lars); biases and normalisation are left out.",
        minimum=0,
    )
    warmup_epochs: float = flag(
        None, "Epochs over which the learning rate rises linearly. Default: by dataset.", minimum=0
    )
    final_learning_rate_scale: float = flag(
        None,
        "Where the cosine of the learning rate ends, as a multiple of the peak; 1: constant. "
        "Default: 1 for pretraining on yeast, else 0.01.",
        minimum=0,
        maximum=1,
    )
    mixed_precision: str = flag(
        "none", "Arithmetic of the network; losses are float32 whatever this says.", choices=PRECISIONS
    )
    seed: int = flag(0, "Seed of weights, data order, augmentation and dropout.", minimum=0)
    strategy: str = flag(
        "none",
        "none: one device. mirrored: all GPUs of this machine. multiworker: those of all machines in TF_CONFIG.",
        choices=STRATEGIES,
    )
    logical_devices: int | None = flag(
        None, "Cut the CPU into so many devices, for trying a --strategy out without GPUs.", minimum=1
    )
    checkpoint_every: str = flag(
        "30s",
        "Time between two checkpoints (30s, 5m), or a number of steps (500) or epochs (1e); one is always written at the end.",
    )
    checkpoints_kept: int = flag(2, "How many of the newest checkpoints stay on disk.", minimum=1)
    steps_per_execution: int | None = flag(
        None, "Training steps that run in one call of the compiled graph. Default: up to 64.", minimum=1
    )
    max_bad_steps: int = flag(
        10,
        "Steps in a row that are skipped because the loss or a gradient is not finite; after so many the run stops.",
        minimum=1,
    )
    max_steps: int | None = flag(None, "Stop after so many steps, for trying things out.", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_checkpoint_interval(self.checkpoint_every)
        if self.logical_devices is not None and self.strategy == "none":
            raise InputError(
                f"--logical_devices needs --strategy=mirrored or multiworker. Received: --logical_devices={self.logical_devices}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Settings of `python -m mulsupcon_tf.pretrain`."""

    method: str = flag(
        "cld",
        "Contrastive method: cld and rld recover label distributions; the others are baselines, and truth, which weights "
        "labels by the true distributions of a dataset that has them, is the upper bound.",
        choices=METHODS,
    )
    queue_size: int = flag(None, "Keys kept from earlier batches (Q). Default: by dataset.", minimum=1)
    embedding_size: int = flag(
        None, "Width of the contrastive embedding (D). Default: 256 for vectors, 128 for images.", minimum=2
    )
    temperature: float = flag(0.1, "Temperature τ of the contrastive loss.", above=0)
    temperature_d: float = flag(0.5, "Temperature τ_d between distributions (cld).", above=0)
    momentum: float = flag(0.999, "Momentum m of the key encoder.", minimum=0, maximum=1)
    momentum_schedule: str = flag(
        None,
        "constant, or ramp: m rises from 0.1 to --momentum as min(m, (1+t)/(10+t)) over steps t. Default: by dataset.",
        choices=("constant", "ramp"),
    )
    alpha: float = flag(1.0, "Weight α of the alignment of distributions to labels.", minimum=0)
    beta: float = flag(1e-3, "Weight β of the squared norm of the distribution head's kernel.", minimum=0)
    gamma: float = flag(1.0, "Weight γ of the recovery loss.", minimum=0)
    rho: float = flag(
        0.5, "Share ρ of the recovered distribution in the label weights; 0 is MulSupCon.", minimum=0, maximum=1
    )
    weigh_keys: bool = flag(
        False,
        "Weight keys as well as anchors: a key counts in the mean of a label by its own weight of the label. "
        "cld, rld, mulsupcon, truth.",
    )
    affinity_power: float = flag(
        0.0,
        "Above 0, keys are positives by how alike their label weights are to the anchor's: the Bhattacharyya coefficient to "
        "this power; large powers ask for nearly the same labels. 0: each label by itself. cld, rld, mulsupcon, truth.",
        minimum=0,
    )
    rbf_sigma: float = flag(0.01, "Width σ of the RBF kernel (rld).", above=0)
    recovery_gradient: str = flag(
        None,
        "Whether recovery gradients reach the encoder. Default: stop for vectors, flow for images.",
        choices=("stop", "flow"),
    )
    average: str = flag(
        "anchor", "mulsupcon: average over anchors, or over (anchor, label) pairs.", choices=("anchor", "pair")
    )
    bce_weight: float = flag(
        None,
        "Weight of binary cross-entropy on a linear head beside the contrastive loss: the way in for images. Default: by dataset.",
        minimum=0,
    )
    bce_warmup_epochs: float = flag(
        0.0, "Epochs of binary cross-entropy alone before the contrastive loss joins.", minimum=0
    )
    gradient_accumulation_steps: int = flag(
        1,
        "Parts into which a batch is cut to fit a small device: keys of the whole batch, gradients part by part.",
        minimum=1,
    )
    monitor_every: int = flag(
        None,
        "Epochs between two looks at the encoder by nearest neighbours on validation; 0: never. Default: 10 for image files, else 0.",
        minimum=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.average == "pair" and self.method != "mulsupcon":
            raise InputError(f"--average=pair belongs to --method=mulsupcon. Received: --method={self.method}")
        if self.weigh_keys and self.method not in LABEL_WEIGHING_METHODS:
            raise InputError(
                f"--weigh_keys belongs to --method={', '.join(LABEL_WEIGHING_METHODS)}. Received: --method={self.method}"
            )
        if self.affinity_power and self.method not in LABEL_WEIGHING_METHODS:
            raise InputError(
                f"--affinity_power belongs to --method={', '.join(LABEL_WEIGHING_METHODS)}. Received: --method={self.method}"
            )
        if self.affinity_power and (self.weigh_keys or self.average == "pair"):
            raise InputError(
                "--affinity_power weights whole keys, not keys of a label; --weigh_keys and --average=pair do not go with it. "
                f"Received: --affinity_power={self.affinity_power:g}"
            )
        if self.batch_size is not None and self.batch_size % self.gradient_accumulation_steps:
            raise InputError(
                "--batch_size must be a multiple of --gradient_accumulation_steps. "
                f"Received: --batch_size={self.batch_size} --gradient_accumulation_steps={self.gradient_accumulation_steps}"
            )
        if self.bce_warmup_epochs and self.bce_weight == 0:
            raise InputError("--bce_warmup_epochs needs a positive --bce_weight. Received: --bce_weight=0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Settings of `python -m mulsupcon_tf.finetune`."""

    pretrained: str | None = flag(
        None, "Run directory of a pretraining. Without it the classifier starts from random weights: BCE only."
    )
    linear_probe: bool = flag(False, "Freeze the pretrained backbone and train the linear layer alone.")
    backbone_learning_rate_scale: float = flag(
        None,
        "Learning rate of the backbone as a multiple of the head's. Default: 0.1 with --pretrained or --backbone_weights, "
        "1 without and on digits.",
        minimum=0,
    )
    patience: int = flag(20, "Stop when validation loss has not improved for so many epochs.", minimum=1)
    threshold: str = flag(
        "validation",
        "Decision thresholds: validation (chosen there, one per metric), a number, or paper (best on test: optimistic).",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrained and self.backbone_weights:
            raise InputError(
                "--pretrained brings the backbone's weights; leave out --backbone_weights. "
                f"Received: --pretrained={self.pretrained} --backbone_weights={self.backbone_weights}"
            )
        if self.linear_probe and not (self.pretrained or self.backbone_weights):
            raise InputError(
                "--linear_probe needs --pretrained=DIR, a pretraining's run directory, or --backbone_weights. Received: none"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Validated):
    """Settings of `python -m mulsupcon_tf.evaluate`."""

    workdir: str = flag(None, "Run directory of a fine-tuning; with --retrieval of a pretraining too. Required.")
    split: str = flag("test", "Split to judge.", choices=SPLITS)
    data_dir: str | None = flag(None, "Folder of the dataset's files, where it is no longer that of the run.")
    threshold: str = flag(
        "validation",
        "Decision thresholds: validation (chosen there, one per metric), a number, or paper (best on test: optimistic).",
    )
    output: str | None = flag(
        None,
        "Also write all figures, per label too, to this JSON file. Default with --retrieval: WORKDIR/retrieval.json.",
    )
    retrieval: bool = flag(
        False,
        "Judge the embedding instead: what the nearest samples of the gallery have in common with those of --split.",
    )
    gallery: str = flag("train", "With --retrieval: split that is searched.", choices=SPLITS)
    neighbours: int = flag(10, "With --retrieval: nearest samples that are judged (k).", minimum=1)
    representation: str | None = flag(
        None,
        "With --retrieval: embedding (the pretraining's projection q) or features (the backbone's r). "
        "Default: embedding for a pretraining; a fine-tuning has features only.",
        choices=REPRESENTATIONS,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedConfig(Validated):
    """Settings of `python -m mulsupcon_tf.embed`."""

    workdir: str = flag(None, "Run directory of a pretraining or a fine-tuning. Required.")
    split: str = flag("test", "Split to encode.", choices=SPLITS)
    data_dir: str | None = flag(None, "Folder of the dataset's files, where it is no longer that of the run.")
    output: str = flag(None, "NPZ file to write. Required.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig(Validated):
    """Settings of `python -m mulsupcon_tf.export`."""

    workdir: str = flag(None, "Run directory of a fine-tuning. Required.")
    output: str = flag(
        None,
        "Folder to write the model and its card to; must not exist yet. Required. "
        "TensorFlow Serving wants a number as its last part, the version: models/digits/1.",
    )
    format: str = flag(
        "saved_model",
        "saved_model takes encoded images; onnx and litert take decoded pixels. onnx needs the extra of that name.",
        choices=EXPORT_FORMATS,
    )
    max_image_pixels: int | None = flag(
        None,
        "saved_model: largest image that the model decodes, height times width. Default: that of the run.",
        minimum=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig(Validated):
    """Settings of `python -m mulsupcon_tf.predict`."""

    saved_model: str = flag(None, "Folder of a SavedModel that `export` wrote. Required.")
    batch_size: int = flag(64, "Files or rows per call of the model.", minimum=1)


def parse_checkpoint_interval(text: str) -> tuple[float, Literal["seconds", "steps", "epochs"]]:
    """Reads `--checkpoint_every`: "30s" and "5m" are times, "500" a number of steps, "2e" of epochs."""
    match = re.fullmatch(r"([1-9]\d*)\s*([sme]?)", text)
    if not match:
        raise InputError(
            f"--checkpoint_every must be a time (30s, 5m) or a number of steps (500) or epochs (2e). Received: {text}"
        )
    number, unit = int(match[1]), match[2]
    if unit in ("", "e"):
        return float(number), "steps" if unit == "" else "epochs"
    return number * (60.0 if unit == "m" else 1.0), "seconds"
