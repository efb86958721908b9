"""The settings of a run with everything filled in that its dataset and its pretraining decide."""

import dataclasses
from typing import Any

from mulsupcon_tf.config.common_flags import image_size_of
from mulsupcon_tf.config.defaults import resolve_finetuning, resolve_pretraining
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.datasets.splitting import share_size
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
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


def resolved_pretraining(config: PretrainConfig, size: DataSize) -> PretrainConfig:
    """Fills in the settings that are None."""
    whole = size.num_train + (size.num_validation if config.validation_fraction == 0 else 0)
    return resolve_pretraining(config, input_shape=size.input_shape, num_train=share_size(whole, config.label_fraction))


def resolved_finetuning(config: FinetuneConfig, size: DataSize) -> FinetuneConfig:
    """Fills in the settings that are None: backbone, whether it is frozen, and image size from the pretraining, if there is one.

    Raises:
        InputError: `--pretrained` is not the directory of a finished pretraining, or not of one with `--freeze_backbone`.
    """
    if config.pretrained:
        config = _like_pretraining(config, RunDirectory(config.pretrained))
    return resolve_finetuning(config, input_shape=size.input_shape)


def _like_pretraining(config: FinetuneConfig, pretrained: RunDirectory) -> FinetuneConfig:
    summary = pretrained.read_summary()
    if summary["phase"] != "pretrain":
        raise InputError(
            f"--pretrained must be the run directory of a pretraining. Received: {pretrained.path}, a {summary['phase']} run"
        )
    flags = read_flags(pretrained.flags_file)
    fill: dict[str, Any] = {"backbone": flags["backbone"], "image_size": image_size_of(flags)}
    if flags.get("freeze_backbone") == "true":
        fill["backbone_weights"] = flags["backbone_weights"]
        config = dataclasses.replace(config, freeze_backbone=True)
    elif config.freeze_backbone:
        raise InputError(
            "--freeze_backbone with --pretrained needs a pretraining with --freeze_backbone; --linear_probe freezes another. "
            f"Received: {pretrained.path}"
        )
    missing = {name: value for name, value in fill.items() if getattr(config, name) is None}
    return dataclasses.replace(config, **missing)
