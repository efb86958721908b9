"""The index of a search: what stands for each item of a gallery, in one file that is written once and used again.

Up to `EXACT` items every one is compared. Beyond that a graph of neighbours is asked (HNSW, of faiss), which finds nearly all
of the nearest in a fraction of the time; it lies beside the index and is made anew where it is not of the same vectors.

References:
    Malkov, Yashunin, Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small World graphs,
    TPAMI 2020, arXiv 1603.09320.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mulsupcon_tf.evaluation.nearest import largest_of_rows, unit_rows
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.optional_packages import require_faiss

EXACT = 200_000
FORMAT = 1
_LINKS, _BREADTH = 32, 128  # of the graph: neighbours of an item, and how many candidates a search keeps
_CHUNK = 64  # queries whose cosines to all items are in memory at once: 50 MB for `EXACT` items
NO_ROW = -1  # of an image


@dataclasses.dataclass(frozen=True, eq=False)
class SearchIndex:
    """M items with what stands for them.

    Attributes:
        vectors: `[M, D]` float32, rows of norm 1.
        files: `[M]` absolute paths.
        rows: `[M]` int64, the row of the file; `NO_ROW` for an image.
        stamps: `[M, 2]` int64, size and time of change of the file when it was read.
        by: what the vectors are, one of `choices.SEARCHED_BY`.
        model: what tells the model that made them.
    """

    vectors: np.ndarray
    files: np.ndarray
    rows: np.ndarray
    stamps: np.ndarray
    by: str
    model: str

    @classmethod
    def empty(cls, by: str, model: str) -> "SearchIndex":
        """One without an item."""
        return cls(
            np.empty((0, 0), np.float32),
            np.empty(0, "<U1"),
            np.empty(0, np.int64),
            np.empty((0, 2), np.int64),
            by,
            model,
        )

    @classmethod
    def read(cls, path: pathlib.Path) -> "SearchIndex":
        """Reads a file that `write` has written.

        Raises:
            InputError: it is none, or one of another version.
        """
        with _stored(path) as stored:
            arrays = {name: stored[name] for name in ("vectors", "files", "rows", "stamps")}
            return cls(**arrays, by=str(stored["by"]), model=str(stored["model"]))

    @staticmethod
    def what_is_compared(path: pathlib.Path) -> str:
        """`by` of a file that `write` has written; its vectors, which may be gigabytes, are not read. Raises as `read`."""
        with _stored(path) as stored:
            return str(stored["by"])

    def write(self, path: pathlib.Path) -> None:
        """Writes it, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file.replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **vars(self), format=np.array(FORMAT))

    def kept(self, chosen: np.ndarray) -> "SearchIndex":
        """The items at a mask or at indices."""
        parts = {name: getattr(self, name)[chosen] for name in ("vectors", "files", "rows", "stamps")}
        return dataclasses.replace(self, **parts)

    def with_items(
        self, vectors: np.ndarray, files: Sequence[str], rows: Sequence[int], stamps: np.ndarray
    ) -> "SearchIndex":
        """The index with more items at its end, whose vectors need not be of norm 1."""
        vectors = unit_rows(vectors, np.float32)
        if not len(self.files):
            return dataclasses.replace(
                self, vectors=vectors, files=np.array(files, str), rows=np.array(rows, np.int64), stamps=stamps
            )
        return dataclasses.replace(
            self,
            vectors=np.concatenate([self.vectors, vectors]),
            files=np.concatenate([self.files, np.array(files, str)]),
            rows=np.concatenate([self.rows, np.array(rows, np.int64)]),
            stamps=np.concatenate([self.stamps, stamps]),
        )

    def nearest(self, queries: np.ndarray, count: int, path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
        """The items with the largest cosine to each query: cosines and positions, `[N, k]`, the nearest first.

        Args:
            queries: `[N, D]`.
            count: k; all items where they are fewer.
            path: of the index, beside which the graph of a large one lies.

        Raises:
            InputError: the queries are of another width, or there are more than `EXACT` items and no faiss.
        """
        if queries.shape[1] != self.vectors.shape[1]:
            raise InputError(
                f"queries must be as wide as the index, {self.vectors.shape[1]}. Received: {queries.shape[1]} numbers each"
            )
        if len(self.files) > EXACT:
            return self._nearest_in_graph(queries, min(count, len(self.files)), path)
        count, unit = min(count, len(self.files)), unit_rows(queries, np.float32)
        similarities = np.empty((len(unit), count), np.float32)
        positions = np.empty((len(unit), count), np.int64)
        for start in range(0, len(unit), _CHUNK):
            cosines = unit[start : start + _CHUNK] @ self.vectors.T
            near = largest_of_rows(cosines, count)
            positions[start : start + _CHUNK] = near
            similarities[start : start + _CHUNK] = np.take_along_axis(cosines, near, axis=1)
        return similarities, positions

    def _nearest_in_graph(self, queries: np.ndarray, count: int, path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
        faiss = require_faiss(EXACT)
        graph_file = path.with_suffix(".faiss")
        graph = self._stored_graph(faiss, graph_file)
        if graph is None:
            logging.getLogger("mulsupcon_tf").info("making the graph of %d items once: %s", len(self.files), graph_file)
            graph = faiss.IndexHNSWFlat(self.vectors.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
            graph.add(self.vectors)
            with atomic_file.replacing(graph_file) as temporary:
                faiss.write_index(graph, os.fspath(temporary))
        graph.hnsw.efSearch = max(_BREADTH, 2 * count)
        return graph.search(unit_rows(queries, np.float32), count)

    def _stored_graph(self, faiss: Any, file: pathlib.Path) -> Any:
        """The graph of a file; None where it holds none of these vectors.

        It keeps them, and they alone tell: a copy or a moved clock gives any of the two files the later time, and one photo
        that has changed leaves their number as it was.
        """
        if not file.exists():
            return None
        try:
            graph = faiss.read_index(os.fspath(file))
        except (RuntimeError, MemoryError):  # of a damaged file, which may announce any size
            return None
        if not isinstance(graph, faiss.IndexHNSWFlat):
            return None
        kept = faiss.downcast_index(graph.storage)
        if {(each.ntotal, each.d) for each in (graph, kept)} != {self.vectors.shape}:
            return None
        stored = faiss.rev_swig_ptr(kept.get_xb(), self.vectors.size).reshape(self.vectors.shape)  # not copied
        return graph if np.array_equal(stored, self.vectors) else None


@contextlib.contextmanager
def _stored(path: pathlib.Path) -> Iterator[np.lib.npyio.NpzFile]:
    try:
        with np.load(atomic_file.regular_file(path), allow_pickle=False) as stored:
            if int(stored["format"]) != FORMAT:
                raise ValueError(f"it is of format {stored['format']}, not {FORMAT}")
            yield stored
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"--index must be a file that search has written. Received: {path} ({error})") from error
