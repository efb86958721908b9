"""Predictions for files by a SavedModel; the model's own code is not needed."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mulsupcon_tf.commands.finished_run import model_folder
from mulsupcon_tf.config.program_flags import PredictConfig
from mulsupcon_tf.serving.model_inputs import Refused, files_below, named_files
from mulsupcon_tf.serving.served_model import ServedModel
from mulsupcon_tf.training.progress_bar import progress_line
from mulsupcon_tf.utils.errors import InputError

LABEL_SEPARATOR = ";"  # in a cell of CSV


def predict(config: PredictConfig, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields one record for each image file, or for each row of a file of vectors.

    Args:
        config: settings.
        names: files, folders and patterns: images (JPEG, PNG, GIF, BMP, WebP), or tables with a column `file` of such; for a
            model on vectors `.npy` files of `[F]` or `[N, F]`, or `.csv` files of numbers, whose first line may be the names
            of the columns, or what numbers them from 0 where the other lines show that it does.

    Yields:
        `{"file", "row" (vectors only, from 0), "labels": names above the threshold, "probabilities": {name:
        probability}}`, with `top_k` only the largest of these, the largest first.

    Raises:
        InputError: no file was named, or one is not there; or, when all others have their records, files cannot be
            read.
    """
    model, files = open_model(config, names)
    yield from _records(config, model, files)


def predicted_lines(config: PredictConfig, names: Sequence[str]) -> Iterator[str]:
    """Yields what `predict` prints, line by line: JSON, or with `--format=csv` a table with a header.

    The table has the columns `file`, `row` (vectors only), `labels` (separated by `;`) and the probability of each label; with
    `top_k` in place of these `label 1`, `probability 1` and so on.

    Raises:
        InputError: see `predict`.
    """
    model, files = open_model(config, names)
    if config.format == "jsonl":
        for record in _records(config, model, files):
            yield json.dumps(record)
        return
    row = () if model.num_features is None else ("row",)
    count = min(config.top_k or len(model.label_names), len(model.label_names))
    ranks = [f"{what} {rank}" for rank in range(1, count + 1) for what in ("label", "probability")]
    yield _csv_line(["file", *row, "labels", *(ranks if config.top_k else model.label_names)])
    for record in _records(config, model, files):
        pairs = record["probabilities"]
        cells = [cell for pair in pairs.items() for cell in pair] if config.top_k else list(pairs.values())
        yield _csv_line(
            [record["file"], *(record[name] for name in row), LABEL_SEPARATOR.join(record["labels"]), *cells]
        )


def open_model(config: PredictConfig, names: Sequence[str]) -> tuple[ServedModel, list[str]]:
    """The model, and the files that are to be answered."""
    if not names:
        raise InputError("predict takes the files to classify: predict --saved_model=DIR FILE... Received: no file")
    folder = model_folder(config)
    found = named_files(names)
    model = ServedModel.load(folder)
    return model, files_below(found, model.num_features)


def _records(config: PredictConfig, model: ServedModel, files: Sequence[str]) -> Iterator[dict[str, Any]]:
    refused = Refused()
    # Answers on the same screen show well enough how far it is.
    shown = sys.stderr.isatty() and not sys.stdout.isatty()
    with progress_line(len(files), "file", shown=shown) as bar:
        last = None
        for key, outputs in model.answers(files, config.batch_size, refused):
            if key["file"] != last:
                last = key["file"]
                bar.update()
            row = outputs["probabilities"]
            order = np.argsort(-row, kind="stable")[: config.top_k] if config.top_k else range(len(row))
            yield key | {
                "labels": model.given_labels(row),
                # As float32 writes them: rounded to some decimals those of rare labels would all be 0, and without an order.
                "probabilities": {model.label_names[label]: float(str(row[label])) for label in order},
            }
    refused.raise_if_any()


def _csv_line(cells: Sequence[Any]) -> str:
    """One row, quoted where that is needed; a line break in a name stays in its quotes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
