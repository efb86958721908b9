"""The index of a search, held against a naive loop over cosines."""

import copy
import dataclasses
import os
import sys

import numpy as np
import pytest

from mulsupcon_tf.serving import search_index
from mulsupcon_tf.serving.search_index import NO_ROW, SearchIndex
from mulsupcon_tf.utils.errors import InputError

RNG = np.random.default_rng(0)


def index_of(vectors):
    count = len(vectors)
    files = [f"/gallery/ü {number}.jpg" for number in range(count)]
    stamps = np.arange(2 * count).reshape(count, 2)
    return SearchIndex.empty("features", "the model").with_items(vectors, files, [NO_ROW] * count, stamps)


def naive(queries, vectors, count):
    """Positions of the largest cosines, one query at a time."""
    found = []
    for query in queries.astype(np.float64):
        cosines = [query @ row / np.linalg.norm(query) / np.linalg.norm(row) for row in vectors.astype(np.float64)]
        found.append(np.argsort(cosines)[::-1][:count])
    return np.array(found)


def test_what_is_written_is_read_again(tmp_path):
    index = index_of(RNG.normal(size=(5, 3)).astype(np.float32))
    index = index.with_items(np.ones((1, 3), np.float32), ["/rows.npy"], [7], np.array([[1, 2]]))
    index.write(tmp_path / "new" / "index.npz")
    read = SearchIndex.read(tmp_path / "new" / "index.npz")
    for field in dataclasses.fields(index):
        np.testing.assert_array_equal(getattr(read, field.name), getattr(index, field.name), err_msg=field.name)
    assert read.rows.tolist() == [NO_ROW] * 5 + [7] and read.files[-1] == "/rows.npy"
    some = read.kept(np.array([5, 0]))
    assert some.files.tolist() == ["/rows.npy", "/gallery/ü 0.jpg"] and some.stamps.tolist() == [[1, 2], [0, 1]]


def test_an_index_is_written_without_a_copy_of_it(tmp_path, monkeypatch):
    index = index_of(RNG.normal(size=(5, 3)).astype(np.float32))
    monkeypatch.setattr(copy, "deepcopy", lambda *_: pytest.fail("copied"))
    index.write(tmp_path / "index.npz")
    np.testing.assert_array_equal(SearchIndex.read(tmp_path / "index.npz").vectors, index.vectors)


def test_the_nearest_are_those_of_a_loop(tmp_path):
    vectors = RNG.normal(size=(40, 6)).astype(np.float32) * RNG.uniform(0.1, 9, (40, 1)).astype(np.float32)
    queries = RNG.normal(size=(7, 6)).astype(np.float32)
    similarities, positions = index_of(vectors).nearest(queries, 5, tmp_path / "index.npz")
    np.testing.assert_array_equal(positions, naive(queries, vectors, 5))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = [
        [query @ unit[row] / np.linalg.norm(query) for row in rows]
        for query, rows in zip(queries, positions, strict=True)
    ]
    np.testing.assert_allclose(similarities, expected, atol=1e-6)
    _, everything = index_of(vectors).nearest(queries, 99, tmp_path / "index.npz")
    assert everything.shape == (7, 40)


def test_a_large_gallery_is_asked_by_a_graph_that_lies_beside_the_index(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(search_index, "EXACT", 100)
    path = tmp_path / "index.npz"
    vectors = RNG.normal(size=(500, 8)).astype(np.float32)
    queries = RNG.normal(size=(20, 8)).astype(np.float32)
    for number in range(2):  # a graph of an index that has changed since is made anew
        index = index_of(vectors[number:])
        index.write(path)
        similarities, positions = index.nearest(queries, 5, path)
        shared = [
            len({*got} & {*true}) for got, true in zip(positions, naive(queries, vectors[number:], 5), strict=True)
        ]
        assert np.mean(shared) > 4.8
        assert (np.diff(similarities, axis=1) <= 0).all() and np.abs(similarities).max() <= 1 + 1e-6
        written = path.with_suffix(".faiss").stat().st_mtime_ns
        index.nearest(queries, 5, path)
        assert path.with_suffix(".faiss").stat().st_mtime_ns == written
        os.utime(path.with_suffix(".faiss"), ns=(0, 0))


def graph_that(damage):
    """Changes the graph file of an index, which is given too."""
    return pytest.param(damage, id=damage.__name__)


def is_garbage(graph_file, vectors):
    graph_file.write_bytes(b"garbage")


def is_cut_off(graph_file, vectors):
    graph_file.write_bytes(graph_file.read_bytes()[:-1000])


def is_of_more_items(graph_file, vectors):
    index_of(np.concatenate([vectors, vectors])).nearest(vectors[:1], 5, graph_file)


def is_of_other_widths(graph_file, vectors):
    index_of(np.concatenate([vectors, vectors], axis=1)).nearest(np.ones((1, 16), np.float32), 5, graph_file)


def has_one_other_item(graph_file, vectors):
    changed = vectors.copy()
    changed[321] = -changed[321]
    index_of(changed).nearest(vectors[:1], 5, graph_file)


def is_of_another_kind(graph_file, vectors):
    faiss = pytest.importorskip("faiss")
    graph = faiss.IndexFlatIP(vectors.shape[1])
    graph.add(index_of(vectors).vectors)
    faiss.write_index(graph, str(graph_file))


@pytest.mark.parametrize(
    "damage",
    map(
        graph_that,
        (is_garbage, is_cut_off, is_of_more_items, is_of_other_widths, has_one_other_item, is_of_another_kind),
    ),
)
def test_a_graph_of_other_vectors_is_made_anew_whatever_its_time(tmp_path, monkeypatch, damage):
    pytest.importorskip("faiss")
    monkeypatch.setattr(search_index, "EXACT", 100)
    path = tmp_path / "index.npz"
    vectors = RNG.normal(size=(500, 8)).astype(np.float32)
    index = index_of(vectors)
    index.write(path)
    expected = index.nearest(vectors[300:340], 5, path)
    path.with_suffix(".faiss").unlink()
    index.nearest(vectors[:1], 5, path)
    damage(path.with_suffix(".faiss"), vectors)
    os.utime(path, ns=(0, 0))
    for found, true in zip(index.nearest(vectors[300:340], 5, path), expected, strict=True):
        np.testing.assert_allclose(found, true, atol=1e-6)


def test_a_graph_is_used_again_whatever_its_time(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(search_index, "EXACT", 100)
    path = tmp_path / "index.npz"
    index = index_of(RNG.normal(size=(500, 8)).astype(np.float32))
    index.write(path)
    index.nearest(index.vectors[:1], 5, path)
    os.utime(path.with_suffix(".faiss"), ns=(1, 1))
    index.nearest(index.vectors[:1], 5, path)
    assert path.with_suffix(".faiss").stat().st_mtime_ns == 1


def test_without_faiss_a_large_gallery_gets_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(search_index, "EXACT", 3)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(
        InputError, match=r"^A gallery of more than 3 items needs faiss: .*'\.\[search\]'.* none installed$"
    ):
        index_of(np.ones((4, 2), np.float32)).nearest(np.ones((1, 2), np.float32), 1, tmp_path / "index.npz")


def test_queries_of_another_width_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"as wide as the index, 2\. Received: 3"):
        index_of(np.ones((4, 2), np.float32)).nearest(np.ones((1, 3), np.float32), 1, tmp_path / "index.npz")


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_another_file_is_no_index(tmp_path, content):
    path = tmp_path / "index.npz"
    if content is None:
        np.savez(path, vectors=np.ones((1, 1)))
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"^--index must be a file that search has written. Received: .*index.npz \("):
        SearchIndex.read(path)


def test_an_index_of_another_format_is_refused(tmp_path, monkeypatch):
    index_of(np.ones((1, 2), np.float32)).write(tmp_path / "index.npz")
    monkeypatch.setattr(search_index, "FORMAT", 2)
    with pytest.raises(InputError, match="it is of format 1, not 2"):
        SearchIndex.read(tmp_path / "index.npz")
