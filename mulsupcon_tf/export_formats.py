"""One export in the format that the user names, with its card: a folder that is whole or not there."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from mulsupcon_tf.classifier import MultiLabelClassifier
from mulsupcon_tf.image_limits import MAX_IMAGE_PIXELS
from mulsupcon_tf.litert_model import save_litert
from mulsupcon_tf.model_card import CARD_FILE, model_card
from mulsupcon_tf.onnx_model import save_onnx
from mulsupcon_tf.saved_model import save_signatures, whole_folder

_WRITERS: dict[str, Callable[..., None]] = {"saved_model": save_signatures, "onnx": save_onnx, "litert": save_litert}


def write_export(
    model: MultiLabelClassifier,
    directory: pathlib.Path,
    export_format: str,
    *,
    summary: Mapping[str, Any],
    flags: Mapping[str, str],
    max_image_pixels: int = MAX_IMAGE_PIXELS,
) -> None:
    """Writes the model and `MODEL_CARD.md` beside `directory` and renames the folder when it is whole.

    Args:
        model: in float32.
        directory: the export's folder.
        export_format: one of `config.EXPORT_FORMATS`.
        summary: the run's `summary.json`; it gives label names and thresholds.
        flags: the run's settings as text, by name.
        max_image_pixels: height times width of the largest image that a SavedModel decodes; the others decode none.

    Raises:
        InputError: the format's extra is not installed, or the format lacks an operation of the model.
    """
    with whole_folder(directory) as partial:
        partial.mkdir()
        limits = {"max_image_pixels": max_image_pixels} if export_format == "saved_model" else {}
        _WRITERS[export_format](
            model, partial, label_names=tuple(summary["label_names"]), thresholds=summary["thresholds"], **limits
        )
        (partial / CARD_FILE).write_text(model_card(summary, flags, export_format), encoding="utf-8")
