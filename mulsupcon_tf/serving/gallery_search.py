"""A gallery that is open for questions: what turns files into vectors, and what is found in an index by these."""

import dataclasses
import hashlib
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mulsupcon_tf.serving.model_inputs import Refused
from mulsupcon_tf.serving.search_index import NO_ROW, SearchIndex
from mulsupcon_tf.serving.served_model import ServedModel
from mulsupcon_tf.utils.atomic_file import sha256
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import counted, in_time

# The first is the default: what stands best for a sample in docs/results.md.
OF_A_PRETRAINING = ("embedding", "features")
OF_A_CLASSIFIER = ("probabilities", "features")
OF_ONE_LABEL = ("features",)
INDEX_FILE = "gallery.npz"  # in the folder of a SavedModel
_logger = logging.getLogger("mulsupcon_tf")


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What turns files into vectors.

    Attributes:
        by: which vectors, one of `choices.SEARCHED_BY`.
        model: what tells the model from others.
        model_before: what earlier versions of the package wrote into an index in place of this, if it was something else.
        num_features: F of a model on vectors; None of one on images.
        encode: from files to keys, `{"file", "row"}`, and vectors `[N, D]`, of all samples that can be read.
    """

    by: str
    model: str
    num_features: int | None
    encode: Callable[[Sequence[str], Refused], tuple[list[dict], np.ndarray]]
    model_before: str = ""


@dataclasses.dataclass
class Search:
    """An index that is open for questions.

    Attributes:
        encoder: turns queries into vectors.
        index: the gallery.
        path: of the index.
        shown: the names by which the gallery names its files, by absolute path.
    """

    encoder: Encoder
    index: SearchIndex
    path: pathlib.Path
    shown: dict[str, str]

    def records(self, queries: Sequence[str], count: int, refused: Refused) -> Iterator[dict[str, Any]]:
        """Yields `{"file", "row" (vectors only), "nearest": [{"file", "row", "similarity"}, ...]}`, the nearest first.

        A query that is itself in the gallery is not among its nearest.

        Args:
            queries: files.
            count: k.
            refused: gets the queries that cannot be read.
        """
        start = time.perf_counter()
        keys, vectors = self.encoder.encode(queries, refused)
        encoded = time.perf_counter()
        if not keys:
            return
        similarities, positions = self.index.nearest(vectors, count + 1, self.path)
        _logger.info(
            "%s encoded in %s; %s searched in %s",
            counted(len(keys), "query", "queries"),
            in_time(encoded - start),
            counted(len(self.index.files), "item"),
            in_time(time.perf_counter() - encoded),
        )
        for key, near, rows in zip(keys, similarities, positions, strict=True):
            own = os.path.abspath(key["file"]), key.get("row", NO_ROW)  # noqa: PTH100 paths are text here
            found = [
                {**self._key(position), "similarity": round(float(similarity), 6)}
                for similarity, position in zip(near, rows, strict=True)
                if position >= 0 and (str(self.index.files[position]), int(self.index.rows[position])) != own
            ]
            yield key | {"nearest": found[:count]}

    def _key(self, position: int) -> dict[str, Any]:
        file, row = str(self.index.files[position]), int(self.index.rows[position])
        return {"file": self.shown.get(file, file)} | ({} if row == NO_ROW else {"row": row})


def encoder_of_served_model(model: ServedModel, by: str | None, batch_size: int) -> Encoder:
    """That of an exported classifier.

    Args:
        model: of photos or of vectors.
        by: one of `OF_A_CLASSIFIER`, or None for the default.
        batch_size: samples of one call of the model.

    Raises:
        InputError: a classifier has no such vectors.
    """
    if len(model.label_names) > 1:
        by = chosen_vectors(by, OF_A_CLASSIFIER, "a classifier")
    else:  # numbers above 0, of which all cosines are 1
        by = chosen_vectors(by, OF_ONE_LABEL, "a classifier of one label")
    name = {"features": "embedding"}.get(by, by)  # as the SavedModel names its outputs

    def encode(files: Sequence[str], refused: Refused) -> tuple[list[dict], np.ndarray]:
        answers = list(model.answers(files, batch_size, refused))
        return [key for key, _ in answers], stacked([outputs[name] for _, outputs in answers])

    return Encoder(by, _hash_of_files(pathlib.Path(model.directory)), model.num_features, encode)


def chosen_vectors(by: str | None, there: tuple[str, ...], of_what: str) -> str:
    """What is compared: the first of what is there, unless another is named.

    Raises:
        InputError: what is named is not there.
    """
    if by is not None and by not in there:
        raise InputError(f"--by must be one of {', '.join(there)} for {of_what}. Received: --by={by}")
    return by or there[0]


def stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """The rows as a table `[N, D]`; `[0, 0]` of none."""
    return np.stack(rows) if rows else np.empty((0, 0), np.float32)


def _hash_of_files(folder: pathlib.Path) -> str:
    """What a SavedModel is: its graph and its weights."""
    files = [folder / "saved_model.pb", *sorted((folder / "variables").glob("*"))]
    return hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()
