"""The settings that pretraining and fine-tuning have in common.

A good value of some settings depends on the dataset: what suits a table of vectors does not suit images. Such a field is
None until `defaults` fills it in; its type is that of the value. `flags.txt` in a run directory holds the resolved values.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

from mulsupcon_tf.config.backbones import BACKBONES
from mulsupcon_tf.config.fields import Validated, flag, from_flag_values
from mulsupcon_tf.utils.choices import AUGMENTATIONS, OPTIMIZERS, PRECISIONS, SCHEDULES, STRATEGIES
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.image_limits import MAX_IMAGE_PIXELS

LARGEST_SEED = 2**32 - 1  # that NumPy's own generator takes
READING_OPTIONS = ("label_separator", "min_label_count")


class ReadsFiles(Validated):
    """Settings of which some say how the files of a dataset are read."""

    @property
    def reading_options(self) -> dict[str, Any]:
        """How the files are read, as `load_dataset` takes it."""
        return {name: getattr(self, name) for name in READING_OPTIONS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(ReadsFiles):
    """What pretraining and fine-tuning have in common."""

    dataset: str = flag(
        None,
        "Name of the dataset, or its file format: digits, coco, voc2007, nuswide, mirflickr, ..., scene, yeast, ..., csv, arff, "
        "hdf5, npz, ldl. Default: digits, without --data_dir.",
        unwritten="digits",
    )
    data_dir: str | None = flag(None, "Folder that holds the dataset's files. `digits` reads none.", path=True)
    label_separator: str | None = flag(
        None,
        "csv: what separates the labels in a cell: a character, or the word space, tab or newline; ';' keeps names whole. "
        "Default: ';' or another that no name holds.",
    )
    min_label_count: int | None = flag(
        None, "csv: leave out labels that fewer training samples carry. Default: none.", minimum=1
    )
    workdir: str = flag(None, "Run directory: settings, logs, checkpoints and results. Required.", path=True)
    epochs: int = flag(None, "Passes over the training split. Default: by dataset.", minimum=1)
    batch_size: int = flag(None, "Samples per step. Default: by dataset.", minimum=2)
    backbone: str = flag(
        None,
        "Network below the heads. Default: mlp for vectors, resnet8 for images in memory, resnet50 for image files; csv: "
        "efficientnet-lite0 with imagenet where the extra `pretrained` is installed, else resnet18 at 128 pixels.",
        choices=tuple(BACKBONES),
    )
    backbone_weights: str | None = flag(
        None,
        "Weights that the backbone starts from: imagenet (of efficientnet-lite0 from the extra `pretrained`, else downloaded by Keras), "
        "or a .weights.h5 file. Default: random.",
        path=True,
    )
    init_from: str | None = flag(
        None,
        "Run directory of a finished run of the same phase, whose weights are those that this run begins with: the encoder, what "
        "lies on it and, in pretraining, keys and queue. --pretrained, --backbone_weights and --head are passed over then. With "
        "--flagfile=RUN/flags.txt before it the other settings are that run's too.",
        path=True,
    )
    freeze_backbone: bool = flag(
        None,
        "Images: leave --backbone with --backbone_weights as it is, compute the features of each image once, and train an mlp "
        "on them. Default: false; true for csv without --backbone, where the extra `pretrained` is installed.",
        unwritten=False,
    )
    feature_views: int = flag(
        None,
        "--freeze_backbone: compute the features of this many fixed views of each training photo, itself and others that are cropped "
        "and mirrored; a step draws among them. Time and disk grow as many times. Default: 1; in fine-tuning that of --pretrained.",
        minimum=1,
        unwritten=1,
    )
    unfreeze_from: str | None = flag(
        None,
        "Images: train the backbone from this layer on, or from a stage, stageK, where the images have been halved K times; what "
        "lies before keeps the weights that it starts from. Default: all is trained.",
    )
    feature_cache: str | None = flag(
        None,
        "--freeze_backbone: folder that keeps the features, for all runs. Default: mulsupcon_tf/features in ~/.cache.",
        path=True,
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
    mask_rate: float = flag(
        None,
        "mask: share of the features that a view hides. Default: 0.5 in pretraining, 0.4 in fine-tuning.",
        minimum=0,
        maximum=1,
    )
    validation_fraction: float | None = flag(
        None,
        "0: also train on what would be validation and judge the last epoch, as the paper does. Default: keep validation apart.",
    )
    cache: bool = flag(False, "Image files: decode each once and keep a small copy in memory.")
    skip_bad_images: bool = flag(
        False, "Image files: check all of them first, list those that cannot be decoded and leave them out."
    )
    max_image_pixels: int = flag(
        MAX_IMAGE_PIXELS,
        "Image files: most pixels, height times width; larger ones count as broken. Exported models keep the limit.",
        minimum=1,
    )
    optimizer: str = flag("adamw", "adamw, sgd (momentum 0.9), or lars for batches of thousands.", choices=OPTIMIZERS)
    learning_rate: float = flag(None, "Peak learning rate. Default: by dataset and optimizer.", above=0)
    weight_decay: float = flag(
        1e-4,
        "Weight decay on kernels, decoupled (adamw) or in the gradient (sgd, lars); biases and normalisation are left out.",
        minimum=0,
    )
    warmup_epochs: float = flag(
        None,
        "Epochs over which the learning rate rises linearly, below --epochs. Default: 5 on images, 1 on digits, at most a fifth of "
        "--epochs; 0 on vectors.",
        minimum=0,
    )
    schedule: str = flag(
        "cosine",
        "Learning rate: cosine falls once from its peak; restarts falls again and again from it, in longer and longer periods.",
        choices=SCHEDULES,
    )
    final_learning_rate_scale: float = flag(
        None,
        "Learning rate at the end of a fall, as a multiple of the peak; 1: constant. Default: 0.01; 1 in a pretraining on yeast with "
        "--schedule=cosine, as MulSupCon was published.",
        minimum=0,
        maximum=1,
    )
    restart_epochs: float = flag(50.0, "restarts: epochs of the first period.", above=0)
    restart_factor: float = flag(2.0, "restarts: how much longer each period is than the one before.", minimum=1)
    mixed_precision: str = flag(
        "none", "Arithmetic of the network; losses are always computed in float32.", choices=PRECISIONS
    )
    seed: int = flag(0, "Seed of weights, data order, augmentation and dropout.", minimum=0, maximum=LARGEST_SEED)
    strategy: str = flag(
        "none",
        "none: one device. mirrored: all GPUs of this machine. multiworker: those of all machines in TF_CONFIG.",
        choices=STRATEGIES,
    )
    logical_devices: int | None = flag(
        None, "Devices that the CPU is split into, to try a --strategy out without GPUs.", minimum=1
    )
    xla: bool = flag(
        False,
        "Compile the training step by XLA, on one GPU: fewer and larger operations, and minutes before the first step. On a "
        "CPU convolutions become several times slower.",
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
        "Stop after this many steps in a row that were skipped because the loss or a gradient was not finite; "
        "overflows that only lower the loss scale of float16 do not count.",
        minimum=1,
    )
    max_steps: int | None = flag(None, "Stop after this many steps, to try things out.", minimum=1)
    allow_changed_data: bool = flag(
        False,
        "Go on although the data have changed since the run, or since --pretrained or --init_from on the same --dataset; summary.json "
        "notes it.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset is None:
            if self.data_dir is not None:
                raise InputError(
                    "--data_dir belongs to a dataset that is read from files; --dataset says which (csv for a table of photos). "
                    f"Received: --data_dir={self.data_dir} without --dataset, which is then digits, embedded"
                )
            object.__setattr__(self, "dataset", "digits")  # the dataclasses are frozen
        parse_checkpoint_interval(self.checkpoint_every)
        if self.schedule == "restarts" and self.warmup_epochs:
            raise InputError(
                f"--warmup_epochs belongs to --schedule=cosine. Received: --warmup_epochs={self.warmup_epochs:g} --schedule=restarts"
            )
        if self.validation_fraction:
            raise InputError(
                "--validation_fraction must be 0, or left out where validation is to be kept apart. "
                f"Received: --validation_fraction={self.validation_fraction:g}"
            )
        if self.freeze_backbone and self.augmentation not in (None, "mask"):
            raise InputError(
                f"--freeze_backbone augments features, by mask alone. Received: --augmentation={self.augmentation}"
            )
        if self.freeze_backbone and self.unfreeze_from:
            raise InputError(
                f"--unfreeze_from trains a part of the backbone, --freeze_backbone none. Received: --unfreeze_from={self.unfreeze_from}"
            )
        if self.logical_devices is not None and self.strategy == "none":
            raise InputError(
                f"--logical_devices needs --strategy=mirrored or multiworker. Received: --logical_devices={self.logical_devices}"
            )
        if self.xla and self.strategy != "none":
            raise InputError(f"--xla compiles the step of one device. Received: --xla with --strategy={self.strategy}")

    def total_steps(self, steps_per_epoch: int) -> int:
        """The steps of the whole run.

        Args:
            steps_per_epoch: steps in one epoch.
        """
        steps = self.epochs * steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    @property
    def trained_network(self) -> tuple[str, str | None]:
        """Name and weights of the backbone that is trained: with `--freeze_backbone` the network on its features."""
        weights = None if self.init_from else self.backbone_weights  # that run brings all, its file may be gone
        return ("mlp", None) if self.freeze_backbone else (self.backbone, weights)


def require_frozen_backbone(config: TrainingConfig) -> None:
    """Raises `InputError` where a backbone that is to be frozen is not named with its weights."""
    if config.freeze_backbone and not (config.backbone and config.backbone_weights):
        raise InputError(
            "--freeze_backbone needs --backbone and --backbone_weights. "
            f"Received: --backbone={config.backbone} --backbone_weights={config.backbone_weights}"
        )


def reading_options_of(flags: Mapping[str, str]) -> dict[str, Any]:
    """How a run read its files, as `load_dataset` takes it.

    Args:
        flags: its settings as text, by name.

    Raises:
        InputError: a value is not of its type or range.
    """
    given = {name: flags[name] for name in READING_OPTIONS if name in flags}
    return from_flag_values(TrainingConfig, given).reading_options


def image_size_of(flags: Mapping[str, str]) -> int | None:
    """The side of the images that a run trained on; None of a run on vectors.

    Args:
        flags: its settings as text, by name.
    """
    return number_of(flags, "image_size")


def number_of(flags: Mapping[str, str], name: str) -> Any:
    """A setting that is a number, of its type; its default where the run is older than the setting or left it out.

    Args:
        flags: the run's settings as text, by name.
        name: of the setting.

    Raises:
        InputError: the text is no such number.
    """
    given = {name: flags[name]} if name in flags else {}
    return getattr(from_flag_values(TrainingConfig, given), name)


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
