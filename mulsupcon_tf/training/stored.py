"""What files of a run directory and of an experiment hold, by name."""

import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from types import NoneType
from typing import Any, TypeAlias

from mulsupcon_tf.utils.choices import SELECTIONS
from mulsupcon_tf.utils.errors import InputError

Form: TypeAlias = Any  # see below
_NUMBER = (int, float)
_PERHAPS = (int, float, NoneType)
_FIGURES: Form = {str: _NUMBER}
# Forms: a type; a tuple of forms, of which one must fit; a set of texts, one of them; `[form]`, a list of such;
# `{name: form}`, an object whose entries are such where they are there, and with `str` for a name all that are not named.
SUMMARY: Form = {
    **dict.fromkeys(("dataset", "data_fingerprint", "changed_data", "method", "backbone", "frozen_weights"), str),
    **dict.fromkeys(("encoder_sha256", "pretrained_sha256", "threshold_policy"), str),
    "selected_by": frozenset(SELECTIONS),
    **dict.fromkeys(("epochs", "epochs_before", "steps", "contrastive_steps", "seed", "best_epoch"), int),
    "seconds": _NUMBER,
    "samples_per_second": _PERHAPS,
    "optimistic": bool,
    "label_names": [str],
    "validation_learnt": [str],
    "input_shape": [int],
    "label_frequencies": [_NUMBER],
    "split_sizes": {str: int},
    "versions": {str: str},
    "val": _FIGURES,
    "test": _FIGURES,
    "thresholds": {str: (int, float, [_NUMBER])},
    "neighbours": _FIGURES,
    "calibration": _FIGURES,
    "recovery": {str: {str: _PERHAPS}},
    "details": {
        str: {
            **dict.fromkeys(("mAP_head", "mAP_medium", "mAP_tail", "calibration_error"), _PERHAPS),
            "intervals": {str: [_NUMBER]},
            "chance": {str: [_NUMBER]},
            "average_precision": [_PERHAPS],
            "labels_without_positives": [int],
            "reliability": [[_NUMBER]],
            "samples_without_labels": int,
        }
    },
}
EPOCH: Form = {str: _PERHAPS, "epoch": int}
_MEASURES: Form = {str: {"value": _PERHAPS, "queries": int}}
RETRIEVAL: Form = {
    "split": str,
    "gallery": str,
    "representation": str,
    "changed_data": str,
    "neighbours": int,
    "truth": bool,
    "results": _MEASURES,
    "control": _MEASURES,
    "one_list": _MEASURES,
}

EXPERIMENT: Form = {
    "environment": {"runs": int, "hours": _NUMBER, "versions": {str: str}},
    "settings": {str: str},
    "columns": [str],
    "rows": [list],
    "labels": {str: {"frequency": [_NUMBER], "average_precision": {str: [_PERHAPS]}}},
    "curves": {str: {str: {str: {"epoch": [int], "value": [_NUMBER]}}}},
    "chosen": {str: {str: {str: str}}},
    "protocols": {
        str: [
            {
                "validation": bool,
                "selected_by": frozenset(SELECTIONS),
                "threshold_policy": str,
                "pretrained_on_validation": bool,
            }
        ],
    },
    "queries": {str: {str: int}},
}


def misfit(content: Any, form: Form, name: str = "") -> str | None:
    """The first entry that is not of its form, as `outer.inner`; None where all are.

    Args:
        content: what a file holds as JSON.
        form: what it should be.
        name: of the content itself.
    """
    if isinstance(form, tuple):
        return None if any(misfit(content, each) is None for each in form) else name
    if isinstance(form, frozenset):
        return None if isinstance(content, str) and content in form else name
    if not isinstance(content, type(form) if isinstance(form, (list, dict)) else form):
        return name
    parts: Iterable[tuple[str, Any, Form]] = ()
    if isinstance(form, list) and isinstance(content, list):
        parts = ((name, each, form[0]) for each in content)
    if isinstance(form, dict) and isinstance(content, dict):
        prefix, others = f"{name}." if name else "", form.get(str, object)
        parts = ((f"{prefix}{key}", value, form.get(key, others)) for key, value in content.items())
    wrong = (misfit(part, of_part, of_name) for of_name, part, of_part in parts)
    return next((found for found in wrong if found is not None), None)


def misfit_of_summary(summary: Mapping[str, Any]) -> str | None:
    """As `misfit`, of a `summary.json`, whose lists must be as long as its labels are many."""
    wrong = misfit(summary, SUMMARY)
    if wrong is not None:
        return wrong
    if len(summary.get("input_shape", [0])) not in (1, 3):
        return "input_shape"
    details = summary.get("details", {}).items()
    lists = {f"details.{split}.average_precision": each.get("average_precision") for split, each in details}
    thresholds = summary.get("thresholds", {}).items()
    lists |= {f"thresholds.{metric}": value for metric, value in thresholds if isinstance(value, list)}
    lists["label_frequencies"] = summary.get("label_frequencies")
    num_labels = len(summary.get("label_names", ()))
    for name, values in lists.items():
        if values is not None and len(values) != num_labels:
            return name
    for split, each in details:
        if not set(each.get("labels_without_positives", ())) <= set(range(num_labels)):
            return f"details.{split}.labels_without_positives"
        if {len(line) for line in each.get("reliability", ())} - {3}:
            return f"details.{split}.reliability"
        for name in ("intervals", "chance"):
            if {len(pair) for pair in each.get(name, {}).values()} - {2}:
                return f"details.{split}.{name}"
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


def read_object(path: pathlib.Path, form: Form) -> Content:
    """The object that a file holds as JSON; an entry that is missing is reported as `Content` does.

    Raises:
        ValueError: the file is damaged, or an entry is not of its form.
    """
    content = json_object(path.read_text(encoding="utf-8"), functools.partial(Content, path))
    if not isinstance(content, Content):
        raise ValueError(f"{path.name} is damaged")
    wrong = misfit(content, form)
    if wrong is not None:
        raise ValueError(f"{wrong!r} of {path.name} is of another kind")
    return content
