"""What `evaluate --retrieval` wrote beside a run, where it belongs to that run and is what an experiment asks for."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from mulsupcon_tf.config.program_flags import DEFAULT_GALLERY, DEFAULT_SPLIT
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.training.stored import RETRIEVAL, read_object
from mulsupcon_tf.utils.choices import SEARCHED_NEIGHBOURS

RAW = "raw"
ONE_LIST = "one_list"  # the same for every query
# What stands for a sample when it is searched, by phase; the first is that of which reports are made.
REPRESENTATIONS = {"pretrain": ("embedding",), "finetune": ("features", "probabilities")}
_OF_REPORTS = {names[0] for names in REPRESENTATIONS.values()}
_ASKED = {"split": DEFAULT_SPLIT, "gallery": DEFAULT_GALLERY, "neighbours": SEARCHED_NEIGHBOURS}


def retrieval_file(directory: pathlib.Path, representation: str) -> pathlib.Path:
    """Where a run directory has the judgement of a representation."""
    return directory / ("retrieval.json" if representation in _OF_REPORTS else f"retrieval_{representation}.json")


def read_retrieval(directory: RunDirectory, representation: str) -> Mapping[str, Any] | None:
    """The results of a run that was judged as a search engine, by measure.

    Args:
        directory: of the run.
        representation: what it was to be searched by.

    Returns:
        The "results" of the file. None where the run is to be judged (again): there is no readable file, it is older than
        the results of the run, or somebody asked for another split, gallery, k or representation.
    """
    path = retrieval_file(directory.path, representation)
    try:
        if path.stat().st_mtime_ns < directory.summary_file.stat().st_mtime_ns:
            return None
        judged = read_object(path, RETRIEVAL)
    except (OSError, ValueError):
        return None
    asked = _ASKED | {"representation": representation}
    return judged.get("results") if asked.items() <= judged.items() else None


def retrieval_measures(directory: RunDirectory, representation: str) -> Iterator[tuple[str, str, float]]:
    """Representation, measure and value of a run that was judged; measures without a value are left out."""
    for name, measured in (read_retrieval(directory, representation) or {}).items():
        if measured["value"] is not None:
            yield representation, name, measured["value"]
