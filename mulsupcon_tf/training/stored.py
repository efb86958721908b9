"""What files of a run directory hold, by name."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from mulsupcon_tf.utils.errors import InputError

# What entries of `summary.json` are, where they are there; of lists, what is in them.
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("dataset", "method", "backbone", "data_fingerprint", "threshold_policy"), str),
    **dict.fromkeys(("split_sizes", "versions", "val", "test", "thresholds", "details"), dict),
    **dict.fromkeys(("epochs", "steps", "seed", "best_epoch"), int),
    "seconds": (int, float),
}
_ITEMS: Mapping[str, type | tuple[type, ...]] = {
    "label_names": str,
    "input_shape": int,
    "label_frequencies": (int, float),
}


def misfit(summary: Mapping[str, Any]) -> str | None:
    """The first entry of a `summary.json` that is not of its kind; None where all are."""
    for name, value in summary.items():
        if name in _KINDS and not isinstance(value, _KINDS[name]):
            return name
        if name in _ITEMS and not (isinstance(value, list) and all(isinstance(each, _ITEMS[name]) for each in value)):
            return name
    return None


class Content(dict):
    """Content of a file by name; what is not there, though every version of the package writes it, is reported.

    Args:
        path: of the file.
        content: what it holds.
    """

    def __init__(self, path: pathlib.Path, content: Mapping[str, Any]):
        super().__init__(content)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise InputError(
            f"{self._path.name} must be whole, with {name!r}. Received: {self._path}, which has no such entry"
        )


def json_object(text: str, hook: Callable[[dict], dict] | None = None) -> dict[str, Any] | None:
    """The object that a text holds as JSON; None where it holds something else or is damaged.

    Args:
        text: the text.
        hook: makes of each object, inner ones too, what stands for it.
    """
    try:
        value = json.loads(text, object_hook=hook)
    except (ValueError, RecursionError):  # of brackets without end
        return None
    return value if isinstance(value, dict) else None
