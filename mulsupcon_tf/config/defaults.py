"""Fills in the settings whose good value depends on the dataset."""

import dataclasses
from typing import Any

from mulsupcon_tf.config.backbones import OF_WEIGHTS_PACKAGE
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.utils.choices import UNSUPERVISED_METHODS
from mulsupcon_tf.utils.errors import InputError


def _with_defaults(config: Any, defaults: dict[str, Any]) -> Any:
    if config.schedule == "restarts":
        defaults = defaults | {"warmup_epochs": 0.0}
    missing = {name: value for name, value in defaults.items() if getattr(config, name) is None}
    return dataclasses.replace(config, **missing)


def _with_phase_defaults(config: Any, defaults: dict[str, Any]) -> Any:
    """As `_with_defaults`, with a warm-up that leaves most of the epochs to the peak and the fall.

    Raises:
        InputError: the learning rate would never leave its warm-up.
    """
    epochs = config.epochs or defaults["epochs"]
    config = _with_defaults(config, defaults | {"warmup_epochs": min(defaults["warmup_epochs"], epochs / 5)})
    if config.warmup_epochs >= config.epochs:
        raise InputError(
            "--warmup_epochs must be below --epochs. "
            f"Received: --warmup_epochs={config.warmup_epochs:g} with --epochs={config.epochs}"
        )
    return config


def default_image_size(input_shape: tuple[int | None, ...]) -> int | None:
    """Side in pixels of what a network sees of images `(H, W, channels)`; None for images that stay as they are stored."""
    height, width = input_shape[:2]
    if height is None:  # image files, each of its own size
        return 224
    return height if height == width else None  # a square is named


def image_augmentation(dataset: str) -> str:
    """What makes views of a dataset's images."""
    return "crop" if dataset == "digits" else "simple"  # a mirrored digit is no digit


def require_augmentation_for(kind: str, augmentation: str | None) -> None:
    """Raises `InputError` unless an augmentation is one of samples of this kind, "vector" or "image"."""
    if augmentation is not None and (augmentation == "mask") != (kind == "vector"):
        raise InputError(
            "--augmentation must be mask for vectors, crop, simple or simclr for images. "
            f"Received: --augmentation={augmentation} for {kind}s"
        )


def _common_defaults(dataset: str, input_shape: tuple[int | None, ...]) -> dict[str, Any]:
    if len(input_shape) == 1:
        return {"batch_size": 64, "backbone": "mlp", "augmentation": "mask", "warmup_epochs": 0.0}
    files = input_shape[0] is None
    images = {
        "batch_size": 128,
        "backbone": "resnet50" if files else "resnet8",
        "image_size": default_image_size(input_shape),
    }
    return images | {
        "augmentation": image_augmentation(dataset),
        "warmup_epochs": 1.0 if dataset == "digits" else 5.0,
    }


def with_start_of_photos(config: Any, *, installed: bool) -> Any:
    """Gives the user's own photos the network that a few hundred of them are enough for, where none was named.

    Args:
        config: settings of either phase.
        installed: whether ImageNet weights can be had without a server.
    """
    if config.dataset != "csv" or config.backbone or config.backbone_weights:
        return config
    if not installed:  # a larger one learns nothing from so few
        return _with_defaults(config, {"backbone": "resnet18", "image_size": 128})
    # Views of images need a network that sees them, and a part of it is trained on images.
    frozen = config.augmentation in (None, "mask") and not config.unfreeze_from
    start = {"backbone": OF_WEIGHTS_PACKAGE, "backbone_weights": "imagenet", "freeze_backbone": frozen}
    return _with_defaults(config, start)


def _trained_on(config: Any, input_shape: tuple[int | None, ...]) -> tuple[Any, tuple[int | None, ...]]:
    """The config and the shape of what is trained on: with a frozen backbone its features, however many there are.

    Raises:
        InputError: a backbone is to be frozen that would take vectors, or a part of one that starts from random weights;
            or views are to be kept of features that nothing computes.
    """
    if config.unfreeze_from:
        if len(input_shape) == 1:
            raise InputError(f"--unfreeze_from takes images. Received: vectors of --dataset={config.dataset}")
        if not (config.backbone_weights or config.init_from or getattr(config, "pretrained", None)):
            raise InputError(
                "--unfreeze_from leaves a part of the backbone as it starts: it needs --backbone_weights, --pretrained or --init_from. "
                f"Received: --unfreeze_from={config.unfreeze_from}"
            )
    config = _with_defaults(config, {"feature_views": 1})
    if not config.freeze_backbone:
        if config.feature_views > 1:
            raise InputError(
                f"--feature_views above 1 needs --freeze_backbone. Received: --feature_views={config.feature_views}"
            )
        return _with_defaults(config, {"freeze_backbone": False}), input_shape
    if len(input_shape) == 1:
        raise InputError(f"--freeze_backbone takes images. Received: vectors of --dataset={config.dataset}")
    return _with_defaults(config, {"image_size": default_image_size(input_shape)}), (None,)


def _learning_rate(config: Any, default_batch_size: int, input_shape: tuple[int | None, ...]) -> float:
    """Peak learning rate; those of sgd and lars grow with the batch (arXiv 1706.02677)."""
    batch_size = config.batch_size or default_batch_size
    if config.optimizer == "sgd":
        return 0.03 * batch_size / 256  # MoCo (arXiv 1911.05722), section 3.3
    if config.optimizer == "lars":
        return 0.3 * batch_size / 256  # SimCLR (arXiv 2002.05709), section 2.2
    if len(input_shape) == 1:
        return 4e-4
    # Measured on digits, in 25 epochs: of 1e-3 to 3.2e-2 the best rates on validation are 8e-3 to 1.6e-2, ten points of mAP above 1e-3.
    return 8e-3 if config.dataset == "digits" else 1e-3


def resolve_pretraining(
    config: PretrainConfig, *, input_shape: tuple[int | None, ...], num_train: int
) -> PretrainConfig:
    """Fills in the settings whose good value depends on the dataset.

    Args:
        config: as given by the user.
        input_shape: of one sample, `(F,)` or `(H, W, channels)`; H and W None for image files.
        num_train: samples in the training split; a queue on a small vector set is never larger.

    Raises:
        InputError: `--freeze_backbone` on vectors, or a warm-up that takes all epochs.
    """
    config, input_shape = _trained_on(config, input_shape)
    if len(input_shape) == 1:
        phase = {
            "epochs": 400,
            "queue_size": min(256, num_train),
            "embedding_size": 256,
            "momentum_schedule": "constant",
            "bce_weight": 0.0,
            "monitor_every": 0,
            "mask_rate": 0.5,
            # MulSupCon's published configuration for yeast: after 400 epochs of warm restarts its rate is near the peak.
            "final_learning_rate_scale": 1.0 if (config.dataset, config.schedule) == ("yeast", "cosine") else 0.01,
        }
    else:
        phase = {
            "epochs": 30 if config.dataset == "digits" else 400,
            "queue_size": 2048 if config.dataset == "digits" else 4096,
            "embedding_size": 128,
            "momentum_schedule": "ramp",
            "bce_weight": 0.0 if config.method in UNSUPERVISED_METHODS else 1.0,  # it reads labels
            "monitor_every": 10 if input_shape[0] is None and config.validation_fraction is None else 0,
            "final_learning_rate_scale": 0.01,
        }
    defaults = _common_defaults(config.dataset, input_shape) | phase
    defaults["learning_rate"] = _learning_rate(config, defaults["batch_size"], input_shape)
    return _with_phase_defaults(config, defaults)


def resolve_finetuning(config: FinetuneConfig, *, input_shape: tuple[int | None, ...]) -> FinetuneConfig:
    """Fills in the settings whose good value depends on the dataset and on whether a pretraining is given.

    Raises:
        InputError: `--freeze_backbone` on vectors, or a warm-up that takes all epochs.
    """
    config, input_shape = _trained_on(config, input_shape)
    trained = config.pretrained or config.backbone_weights or config.init_from
    # Measured: a tenth of the rate ends 3 points of mAP below the whole on yeast (cld), 5 on digits (of 1e-3).
    slow_backbone = trained and len(input_shape) > 1 and config.dataset != "digits"
    phase: dict[str, Any] = {
        "backbone_learning_rate_scale": 0.1 if slow_backbone else 1.0,
        "final_learning_rate_scale": 0.01,
        "head": "fresh" if config.linear_probe else "reuse",
        "select_by": "last" if config.validation_fraction == 0 else "mAP",
        "threshold": "paper" if config.validation_fraction == 0 else "validation",
    }
    if len(input_shape) == 1:
        phase |= {"epochs": 100, "mask_rate": 0.4}
    else:
        phase |= {"epochs": 15 if config.dataset == "digits" else 100}
    defaults = _common_defaults(config.dataset, input_shape) | phase
    defaults["learning_rate"] = _learning_rate(config, defaults["batch_size"], input_shape)
    if config.linear_probe:  # one convex layer bears, and within these epochs needs, a larger step
        defaults["learning_rate"] *= 10
    return _with_phase_defaults(config, defaults)
