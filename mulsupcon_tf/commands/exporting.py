"""One export in the format that the user names, with its card: a folder that is whole or not there."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from mulsupcon_tf.commands.finished_run import finetuning_flags, load_classifier
from mulsupcon_tf.config.common_flags import number_of
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.program_flags import ExportConfig
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.serving.litert_model import save_litert
from mulsupcon_tf.serving.model_card import CARD_FILE, model_card
from mulsupcon_tf.serving.onnx_model import save_onnx
from mulsupcon_tf.serving.saved_model import save_signatures, whole_folder
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.image_limits import MAX_IMAGE_PIXELS

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
    """Writes the model and `MODEL_CARD.md` to a new folder, which is there when it is whole.

    Args:
        model: in float32.
        directory: the export's folder.
        export_format: one of `config.EXPORT_FORMATS`.
        summary: the run's `summary.json`; it gives label names and thresholds.
        flags: the run's settings as text, by name.
        max_image_pixels: height times width of the largest image that a SavedModel decodes; the others decode none.

    Raises:
        InputError: the format's extra is not installed, or the format lacks an operation of the model.
        FileExistsError: there is something at `directory`, perhaps since a moment ago.
    """
    with whole_folder(directory, replace=False) as partial:
        limits = {"max_image_pixels": max_image_pixels} if export_format == "saved_model" else {}
        _WRITERS[export_format](
            model, partial, label_names=tuple(summary["label_names"]), thresholds=summary["thresholds"], **limits
        )
        (partial / CARD_FILE).write_text(model_card(summary, flags, export_format), encoding="utf-8")


def export_run(config: ExportConfig) -> None:
    """Writes the model of a finished fine-tuning, and its card, to a new folder.

    Raises:
        InputError: the run directory is wrong, the output exists, or the format cannot be written.
    """
    require(config, "workdir", "output")
    output = pathlib.Path(config.output)
    if output.exists():
        raise InputError(f"--output must not exist yet. Received: {output}")
    run = RunDirectory(config.workdir)
    flags = finetuning_flags(run)
    write_export(
        load_classifier(run),
        output,
        config.format,
        summary=run.read_summary(),
        flags=flags,
        max_image_pixels=config.max_image_pixels or number_of(flags, "max_image_pixels"),
    )
