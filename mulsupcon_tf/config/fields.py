"""Settings as dataclass fields: what each may be, the check of it, and how it is written in a flagfile."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any

from mulsupcon_tf.config.paths import normal_path
from mulsupcon_tf.utils.errors import InputError

# Settings that may differ when a run is continued: they do not change what is computed, but for rounding and for what
# dropout draws where the number of devices changes.
MAY_DIFFER = (
    "workdir",
    "data_dir",
    "checkpoint_every",
    "checkpoints_kept",
    "steps_per_execution",
    "max_bad_steps",
    "strategy",
    "logical_devices",
    "xla",
    "allow_changed_data",
    "feature_cache",
)


def flag(
    default: Any,
    description: str,
    *,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    path: bool = False,
    unwritten: Any = None,
) -> Any:
    """A dataclass field that becomes the flag `--<its name>`.

    Args:
        default: None where a value is required, optional, or chosen by dataset.
        description: the flag's help.
        choices: allowed values.
        minimum: smallest allowed value.
        above: value that must be exceeded.
        maximum: largest allowed value.
        below: value that must not be reached.
        path: whether it names a file or folder; see `paths.normal_path`. An empty text counts as not given.
        unwritten: what runs had that are older than the setting, where that is not the default.
    """
    metadata = {
        "help": description,
        "choices": choices,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "below": below,
        "path": path,
        "unwritten": unwritten,
    }
    return dataclasses.field(default=default, metadata=metadata)


class Validated:
    """Checks each field against the limits in its metadata, and gives paths their normal spelling."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None:
                _check(field.name, value, field.metadata)
            if value is not None and field.metadata.get("path"):
                normal = normal_path(value, f"--{field.name}") if value else None
                object.__setattr__(self, field.name, normal)  # the dataclasses are frozen


def _check(name: str, value: Any, limits: Any) -> None:
    if isinstance(value, str) and value.encode(errors="replace").decode() != value:  # bytes of a file name
        raise InputError(
            f"--{name} must be text that can be written as UTF-8; rename the file or folder. Received: --{name}={value!a}"
        )
    if isinstance(value, str) and any(character in value for character in "\n\r\0"):
        raise InputError(f"--{name} must be one line of text. Received: --{name}={value!r}")
    if limits.get("choices") is not None and value not in limits["choices"]:
        raise InputError(f"--{name} must be one of {', '.join(limits['choices'])}. Received: --{name}={value}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"--{name} must be a finite number. Received: --{name}={value}")
    if limits.get("minimum") is not None and value < limits["minimum"]:
        raise InputError(f"--{name} must be at least {limits['minimum']}. Received: --{name}={value}")
    if limits.get("above") is not None and not value > limits["above"]:
        raise InputError(f"--{name} must be greater than {limits['above']}. Received: --{name}={value}")
    if limits.get("maximum") is not None and value > limits["maximum"]:
        raise InputError(f"--{name} must be at most {limits['maximum']}. Received: --{name}={value}")
    if limits.get("below") is not None and not value < limits["below"]:
        raise InputError(f"--{name} must be less than {limits['below']}. Received: --{name}={value}")


def require(config: Validated, *names: str) -> None:
    """Raises `InputError` for the first of the named settings that was not given."""
    for name in names:
        if getattr(config, name) is None:
            raise InputError(f"--{name} is required. Received: none")


def require_one(config: Validated, *names: str) -> None:
    """Raises `InputError` where none of the named settings was given, or more than one."""
    given = [name for name in names if getattr(config, name) is not None]
    if len(given) != 1:
        received = " ".join(f"--{name}={getattr(config, name)}" for name in given) or "none"
        raise InputError(f"one of {' and '.join(f'--{name}' for name in names)} is required. Received: {received}")


def refuse_without(config: Validated, owner: str, *names: str) -> None:
    """Raises `InputError` for the first of the named settings that was given although nothing reads it.

    Args:
        config: settings.
        owner: the flag that they belong to, which was not given.
        *names: settings that are None where they are not given, or False.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and value is not False:
            raise InputError(f"--{name} belongs to {owner}. Received: --{name}={value}")


def as_flag_lines(config: Any) -> list[str]:
    """The config as the lines of an absl flagfile; settings that are None are left out."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return [f"--{name}={text}" for name, text in as_texts(values).items()]


def settings_of_run(config: Any, written: Mapping[str, str]) -> dict[str, str]:
    """All settings of a run as text by name, of which its `flags.txt` may lack those that are younger than the run.

    Args:
        config: settings of the run's kind: what is not written is what its field calls `unwritten`, else its default, none
            where that is None.
        written: text by name; paths get their normal spelling.
    """
    fields = dataclasses.fields(config)
    paths = {field.name for field in fields if field.metadata.get("path")}
    older = {field.name: field.metadata["unwritten"] for field in fields}
    return as_texts(
        {field.name: field.default if older[field.name] is None else older[field.name] for field in fields}
    ) | {name: normal_path(text, f"--{name}") if name in paths else text for name, text in written.items()}


def as_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Settings as text by name, as a flagfile has them; those that are None are left out."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }


def from_flag_values(config_class: type, values: Mapping[str, str]) -> Any:
    """The config that `as_flag_lines` wrote.

    Args:
        config_class: a dataclass of settings.
        values: text by name; a setting that is not there has its default.

    Raises:
        InputError: a name is unknown, or a value is not of the setting's type or range.
    """
    hints = typing.get_type_hints(config_class)
    parsed: dict[str, Any] = {}
    for name, text in values.items():
        if name not in hints:
            raise InputError(f"flags.txt must hold settings of this version. Received: --{name}={text}")
        kind = next(part for part in (typing.get_args(hints[name]) or (hints[name],)) if part is not type(None))
        try:
            parsed[name] = {"true": True, "false": False}[text] if kind is bool else kind(text)
        except (KeyError, ValueError) as error:
            raise InputError(f"--{name} must be a value of type {kind.__name__}. Received: --{name}={text}") from error
    return config_class(**parsed)
