"""The card beside an export: what the model was trained on, what it scores and where it is weak, as its run knows it."""

import html
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mulsupcon_tf.config.fields import MAY_DIFFER
from mulsupcon_tf.evaluation.results import METRIC_NAMES
from mulsupcon_tf.evaluation.thresholds import threshold_text
from mulsupcon_tf.utils.choices import DEFAULT_LOSS, LOSSES
from mulsupcon_tf.utils.wording import counted

CARD_FILE = "MODEL_CARD.md"
_KEPT = {"mAP": "the best mAP on validation", "loss": "the lowest loss on validation", "last": "the last"}
_WEAKEST = 5  # labels that the limits name

_LOADING = {
    "saved_model": """\
```python
import tensorflow as tf

model = tf.saved_model.load("FOLDER")
outputs = model.signatures["serving_default"]({name}={value})
outputs["probabilities"]  # [N, {labels}]
outputs["embedding"]
model.signatures["metadata"]()  # label_names, threshold_names, thresholds
```
""",
    "onnx": """\
```python
import json
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx", providers=["CPUExecutionProvider"])
probabilities, embedding = session.run(["probabilities", "embedding"], {{"{name}": {name}}})  # [N, {labels}], [N, R]
metadata = session.get_modelmeta().custom_metadata_map
label_names, thresholds = (json.loads(metadata[key]) for key in ("label_names", "thresholds"))
```
""",
    "litert": """\
```python
import json
from ai_edge_litert.interpreter import Interpreter

model = Interpreter("FOLDER/model.tflite").get_signature_runner("serving_default")
outputs = model({name}={name})
outputs["probabilities"]  # [N, {labels}]
outputs["embedding"]
metadata = json.load(open("FOLDER/metadata.json", encoding="utf-8"))  # label_names, thresholds
```
""",
}


def model_card(summary: Mapping[str, Any], flags: Mapping[str, str], export_format: str) -> str:
    """The card as Markdown. It says what is in the run directory and nothing else.

    Args:
        summary: `summary.json` of a fine-tuning. Runs of version 0.1.0 lack the sizes of splits and the frequencies of
            labels; the card lacks them then.
        flags: the run's settings as text, by name.
        export_format: one of `choices.EXPORT_FORMATS`.
    """
    names = [_text(name) for name in summary["label_names"]]
    sections = {
        "Data": _data(summary, names),
        "Results": _results(summary),
        "Use and limits": _limits(summary, names),
        "Loading": _loading(summary, export_format),
        "Training": _training(summary, flags),
    }
    title = f"# {counted(len(names), 'label')} of {_text(summary['dataset'])}\n\n"
    return title + "\n".join(f"## {heading}\n\n{body}" for heading, body in sections.items())


def _data(summary: Mapping[str, Any], names: list[str]) -> str:
    lines = (
        f"Dataset {_code(summary['dataset'])}, {counted(len(names), 'label')}; a sample may have any number of them.\n"
    )
    if "changed_data" in summary:
        lines += f"\nThe data changed on the way: {_text(summary['changed_data'])}.\n"
    if summary.get("neighbours", {}).get("share"):
        lines += "\n**The model holds training samples**: their labels, representations and, of vectors, values.\n"
    if "split_sizes" not in summary:
        return lines + "\nLabels: " + ", ".join(names) + ".\n"
    lines += "\n" + _table(("split", "samples"), summary["split_sizes"].items())
    precisions = summary["details"]["test"]["average_precision"]
    rows = zip(names, map(_percent, summary["label_frequencies"]), map(_percent, precisions), strict=True)
    return lines + "\n" + _table(("label", "share of the training samples, %", "average precision on test, %"), rows)


def _results(summary: Mapping[str, Any]) -> str:
    thresholds = summary["thresholds"]
    splits = {"validation": "val", "test": "test"} if "val" in summary else {"test": "test"}
    rows = [
        (
            name,
            *(_percent(summary[split][name]) for split in splits.values()),
            threshold_text(thresholds[name]) if name in thresholds else "-",
        )
        for name in METRIC_NAMES
    ]
    if summary["optimistic"]:
        policy = "Thresholds were chosen on the test labels: the test figures that have a threshold are optimistic.\n"
    elif summary["threshold_policy"] == "per_label":
        policy = (
            "A label is given when its probability is above the label's threshold. Thresholds were chosen on validation, one per "
            "metric and label; they travel with the model.\n"
        )
    elif summary["threshold_policy"] == "validation":
        policy = "A label is given when its probability is above the threshold. Thresholds were chosen on validation, one per metric.\n"
    else:
        policy = f"A label is given when its probability is above {_text(summary['threshold_policy'])}, which was fixed beforehand.\n"
    return _table(("metric", *(f"{split}, %" for split in splits), "threshold"), rows) + "\n" + policy


def _limits(summary: Mapping[str, Any], names: list[str]) -> str:
    shape = summary["input_shape"]
    what = f"vectors of {shape[0]} features" if len(shape) == 1 else f"images, seen in {shape[0]} x {shape[1]} pixels"
    details = summary["details"]["test"]
    points = [
        f"For {what}, of the kind that {_code(summary['dataset'])} holds: the figures above were measured there and nowhere else.",
        "The probabilities of a sample's labels do not sum to 1: each label is decided by itself.",
    ]
    if "calibration_error" in details:
        how = "calibrated on validation" if "calibration" in summary else "not calibrated"
        error = _percent(details["calibration_error"])
        points.append(
            f"The probabilities are {how}: on test they are {error} points off on average (expected calibration error)."
        )
    ranked = sorted(
        (value, name) for value, name in zip(details["average_precision"], names, strict=True) if value is not None
    )
    weakest = ", ".join(f"{name} ({_percent(value)})" for value, name in ranked[:_WEAKEST])
    points.append(f"Labels with the lowest average precision on test, %: {weakest}.")
    if details["labels_without_positives"]:
        unjudged = ", ".join(names[column] for column in details["labels_without_positives"])
        points.append(f"Not judged, since no test sample has them: {unjudged}.")
    unseen = [name for name, share in zip(names, summary.get("label_frequencies", ()), strict=False) if share == 0]
    if unseen:
        points.append(f"Never seen in training: {', '.join(unseen)}.")
    if details["samples_without_labels"]:
        points.append(
            f"{details['samples_without_labels']} test samples have no label at all; precision_at_1 counts them as wrong."
        )
    return "".join(f"- {point}\n" for point in points)


def _loading(summary: Mapping[str, Any], export_format: str) -> str:
    shape = summary["input_shape"]
    takes_vectors = len(shape) == 1
    name, value = ("features", "features") if takes_vectors else ("images", "images")
    if export_format == "saved_model" and not takes_vectors:
        name, value = "image_bytes", 'tf.constant([open("a.jpg", "rb").read()])'
    code = _LOADING[export_format].format(name=name, value=value, labels=len(summary["label_names"]))
    if takes_vectors:
        return code + f"\nInput: `features`, [N, {shape[0]}] float32, not standardised: the model does that.\n"
    if export_format == "saved_model":
        return code + "\nInput: `image_bytes`, [N] encoded JPEG, PNG, GIF, BMP or WebP files of any size.\n"
    height, width, channels = shape
    return code + (
        f"\nInput: `images`, [N, {height}, {width}, {channels}] float32: upright pixels from 0 to 255. An image of another size\n"
        "is resized with antialiasing, without stretching, until it just covers that one, and its middle is kept.\n"
    )


def _training(summary: Mapping[str, Any], flags: Mapping[str, str]) -> str:
    kept = {name: value for name, value in flags.items() if name not in MAY_DIFFER}
    # The card travels: of a folder or file on the machine that trained it says the name alone.
    paths = ("init_from", "pretrained", "backbone_weights")
    kept |= {name: pathlib.PurePath(kept[name]).name for name in paths if name in kept}
    if summary["method"] != "bce":
        joined = ", whose contrastive loss never joined" if summary.get("contrastive_steps") == 0 else ""
        start = f"pretrained with {_code(summary['method'])}{joined}, then {_loss(kept)}"
    else:
        start = f"{_loss(kept)} from {_text(kept.get('backbone_weights', 'random'))} weights"
    if "init_from" in kept:
        start += f", going on from the weights of the run {_code(kept['init_from'])}"
    before = f", after {summary['epochs_before']} of an earlier run" if "epochs_before" in summary else ""
    lines = (
        f"Backbone {_code(summary['backbone'])}, {start}. Epochs: {summary['epochs']}{before}; steps: {summary['steps']}; "
        f"seconds: {summary['seconds']:.0f}. Kept are the weights of epoch {summary['best_epoch']}, {_KEPT[summary['selected_by']]}.\n\n"
    )
    versions = ", ".join(_text(f"{name} {version}") for name, version in summary["versions"].items())
    settings = "\n".join(f"--{name}={value}" for name, value in kept.items())
    return lines + f"Versions: {versions}.\n\nSettings that its weights depend on:\n\n```\n{settings}\n```\n"


def _loss(flags: Mapping[str, str]) -> str:
    name = flags.get("loss", DEFAULT_LOSS)
    return LOSSES.get(name, _text(name))


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def _text(name: str) -> str:
    """A label's name as plain text of a Markdown table."""
    escaped = html.escape(name, quote=False)
    return "".join(f"\\{letter}" if letter in r"\`*_|[]#" else letter for letter in escaped).replace("\n", " ")


def _code(text: str) -> str:
    """A text as code, which it cannot end."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
