"""The settings that a grid varies: which phase each goes to, and the text that stands for a value in folders and tables."""

import dataclasses
from collections.abc import Mapping

from mulsupcon_tf.config.command_line import config_of, flag_values
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.utils.choices import READ_BY
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import nearest

CONFIGS: Mapping[str, type] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}
# What the plan sets itself; of the folder of the data further flags may still say another.
SET_BY_THE_PLAN = ("dataset", "workdir", "method", "seed", "pretrained", "linear_probe")
_NOT_VARIED = (*SET_BY_THE_PLAN, "data_dir")


def plain(name: str) -> str:
    """The name of the flag, without the phase that it may be limited to."""
    return name.rpartition(".")[2]


def training_of(phase: str) -> str:
    """The binary that trains a phase; a probe is a fine-tuning too."""
    return "pretrain" if phase == "pretrain" else "finetune"


def concerns(name: str, phase: str) -> bool:
    """Whether a setting of the grid goes to runs of a phase."""
    binary = training_of(phase)
    prefix, _, flag = name.rpartition(".")
    return prefix in ("", binary) and flag in _fields(binary)


def _fields(binary: str) -> set[str]:
    return {field.name for field in dataclasses.fields(CONFIGS[binary])} - set(_NOT_VARIED)


def canonical(name: str, value: str) -> str:
    """The text of a value that all spellings of it share.

    Raises:
        InputError: no such setting can be varied, or it has no such value.
    """
    known = {f"{binary}.{field}" for binary in CONFIGS for field in _fields(binary)}
    known |= {plain(field) for field in known}
    if name not in known:
        raise InputError(
            f"--grid, --choose and --baseline take flags of pretrain or finetune. Received: {name!r} (nearest: {nearest(name, known)!r})"
        )
    binary = next(binary for binary in CONFIGS if concerns(name, binary))
    config, flag = CONFIGS[binary], plain(name)
    reader = [f"--method={READ_BY[flag][0]}"] if flag in READ_BY else []  # other methods may refuse the setting
    parsed = getattr(config_of(config, flag_values(config, [*reader, f"--{flag}={value}"])), flag)
    if isinstance(parsed, bool):
        return str(parsed).lower()
    return _shortest(parsed) if isinstance(parsed, float) else str(parsed)


def _shortest(number: float) -> str:
    """A number as text that reads back as the same number; six digits, as in the folders of earlier runs, where they do."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)
