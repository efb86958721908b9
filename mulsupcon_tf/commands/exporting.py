"""One export in the format that the user names, with its card: a folder that is whole or not there."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mulsupcon_tf.commands.finished_run import dataset_of_run, finetuning_flags, load_classifier
from mulsupcon_tf.commands.outputs import predict_split
from mulsupcon_tf.commands.searching import write_index_of_model
from mulsupcon_tf.config.common_flags import image_size_of, number_of
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.program_flags import ExportConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.evaluation.metrics import mean_average_precision
from mulsupcon_tf.input_pipeline.batches import EVALUATION_BATCH, evaluation_batches
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.serving.gallery_search import INDEX_FILE
from mulsupcon_tf.serving.litert_model import litert_probabilities, save_litert
from mulsupcon_tf.serving.model_card import CARD_FILE, model_card
from mulsupcon_tf.serving.onnx_model import save_onnx
from mulsupcon_tf.serving.saved_model import save_signatures, whole_folder
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.image_limits import MAX_IMAGE_PIXELS
from mulsupcon_tf.utils.optional_packages import require_litert
from mulsupcon_tf.utils.wording import counted

_CALIBRATED = 200  # samples of validation
_WRITERS: dict[str, Callable[..., None]] = {"saved_model": save_signatures, "onnx": save_onnx, "litert": save_litert}


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """How a LiteRT file is stored, and what that is judged by.

    Attributes:
        kind: one of `choices.QUANTISATIONS`.
        calibration: `[M, ...]` float32 samples of validation.
        test: N samples.
        image_size: side of the images.
        changed_data: what is different from the data that the run saw, in words; "" if nothing.
    """

    kind: str
    calibration: np.ndarray
    test: Split
    image_size: int | None
    changed_data: str = ""

    @classmethod
    def of_run(
        cls, kind: str, dataset: MultiLabelDataset, image_size: int | None, changed_data: str = ""
    ) -> "Quantisation":
        """That of a run's data."""
        first = dataset.splits["validation"][:_CALIBRATED]
        calibration = np.concatenate(list(_batches(first, image_size)))
        return cls(kind, calibration, dataset.splits["test"], image_size, changed_data)

    def section(self, model: MultiLabelClassifier, stored: float, folder: pathlib.Path) -> str:
        """What the card says of it.

        Args:
            model: in float32.
            stored: its mAP on the test samples that the run saw.
            folder: of the file.
        """
        before, remark = stored, ""
        if self.changed_data:
            predicted = predict_split(model, self.test, self.image_size)["probabilities"]
            before = mean_average_precision(self.test.labels, predicted)
            remark = f" Both are of data that have changed since the run: {self.changed_data}."
        probabilities = litert_probabilities(folder, _batches(self.test, self.image_size))
        after = mean_average_precision(self.test.labels, probabilities)
        how = {
            "float16": "Weights are stored in float16.",
            "int8": f"Weights and activations are in int8 where an operation can, scaled by {len(self.calibration)} samples of validation.",
        }[self.kind]
        return (
            f"\n## Quantisation\n\n{how} mAP on test: {100 * before:.1f} before, in float32; {100 * after:.1f} after, by LiteRT "
            f"on this machine.{remark}\n"
        )


def _batches(split: Split, image_size: int | None) -> Iterator[np.ndarray]:
    """The samples as the network takes them, float32."""
    for inputs, _ in evaluation_batches(split, batch_size=EVALUATION_BATCH, image_size=image_size):
        yield np.asarray(inputs, np.float32)


def write_export(
    model: MultiLabelClassifier,
    directory: pathlib.Path,
    export_format: str,
    *,
    summary: Mapping[str, Any],
    flags: Mapping[str, str],
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    quantisation: Quantisation | None = None,
    gallery: str | None = None,
    by: str | None = None,
) -> None:
    """Writes the model and `MODEL_CARD.md` to a new folder, which is there when it is whole.

    Args:
        model: in float32.
        directory: the export's folder.
        export_format: one of `choices.EXPORT_FORMATS`.
        summary: the run's `summary.json`; it gives label names and thresholds.
        flags: the run's settings as text, by name.
        max_image_pixels: height times width of the largest image that a SavedModel decodes; the others decode none.
        quantisation: how a LiteRT file is stored otherwise than in float32.
        gallery: of what an index is written beside a SavedModel.
        by: what stands for its items; None for the default.

    Raises:
        InputError: the format's extra is not installed, the format lacks an operation of the model, or the gallery is wrong.
        FileExistsError: there is something at `directory`, perhaps since a moment ago.
    """
    with whole_folder(directory, replace=False) as partial:
        further: dict[str, Any] = {"max_image_pixels": max_image_pixels} if export_format == "saved_model" else {}
        if quantisation:
            further |= {"quantize": quantisation.kind, "calibration": quantisation.calibration}
        _WRITERS[export_format](
            model, partial, label_names=tuple(summary["label_names"]), thresholds=summary["thresholds"], **further
        )
        card = model_card(summary, flags, export_format)
        if quantisation:
            card += quantisation.section(model, summary["test"]["mAP"], partial)
        if gallery is not None:
            index = write_index_of_model(partial, gallery, by)
            card += (
                f"\n## Gallery\n\n`{INDEX_FILE}`: {index.by} of {counted(len(index.files), 'item')}, in which "
                "`search --saved_model` looks for what is most alike to a query.\n"
            )
        (partial / CARD_FILE).write_text(card, encoding="utf-8")


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
    if config.max_image_pixels and len(run.read_summary()["input_shape"]) == 1:
        raise InputError(
            "--max_image_pixels belongs to a model of images. "
            f"Received: --max_image_pixels={config.max_image_pixels} for {run.path}, a model of vectors"
        )
    quantisation = None
    if config.quantize:
        require_litert()
        data_dir = config.data_dir or flags.get("data_dir")
        dataset, changed = dataset_of_run(run, flags, data_dir, allow_changed_data=config.allow_changed_data)
        quantisation = Quantisation.of_run(config.quantize, dataset, image_size_of(flags), changed)
    write_export(
        load_classifier(run),
        output,
        config.format,
        summary=run.read_summary(),
        flags=flags,
        max_image_pixels=config.max_image_pixels or number_of(flags, "max_image_pixels"),
        quantisation=quantisation,
        gallery=config.gallery,
        by=config.by,
    )
