"""What `evaluate --retrieval` wrote beside a pretraining, where it belongs to that pretraining."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mulsupcon_tf.config.program_flags import EvaluateConfig
from mulsupcon_tf.training.run_directory import RunDirectory

NEIGHBOURS = EvaluateConfig.neighbours
# What an experiment asks for, as retrieval.json says it: the defaults of the binary.
_ASKED = {
    "split": EvaluateConfig.split, "gallery": EvaluateConfig.gallery, "neighbours": NEIGHBOURS,
    "representation": "embedding",
}  # fmt: skip


def read_retrieval(directory: RunDirectory) -> Mapping[str, Any] | None:
    """The results of a pretraining that was judged as a search engine, by measure.

    Returns:
        The "results" of retrieval.json. None where the pretraining is to be judged (again): there is no readable file, it
        is older than the results of the pretraining, or somebody asked for another split, gallery, k or representation.
    """
    try:
        if directory.retrieval.stat().st_mtime_ns < directory.summary_file.stat().st_mtime_ns:
            return None
        judged = json.loads(directory.retrieval.read_text(encoding="utf-8"))
        return judged["results"] if _ASKED.items() <= judged.items() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def retrieval_measures(directory: RunDirectory) -> Iterator[tuple[str, str, float]]:
    """Protocol, which is none, measure and value of a pretraining that was judged; measures without a value are left out."""
    for name, measured in (read_retrieval(directory) or {}).items():
        if measured["value"] is not None:
            yield "", name, measured["value"]
