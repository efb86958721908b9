import math
import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from mulsupcon_tf.datasets.base import Split
from mulsupcon_tf.evaluation import retrieval
from mulsupcon_tf.utils.errors import InputError

NO_INPUTS = np.zeros((0, 1), np.float32)


def samples(count, labels=5, seed=0):
    """Labels with empty rows and a label that most have, and distributions over each sample's own labels."""
    rng = np.random.default_rng(seed)
    present = (rng.random((count, labels)) < [0.6, 0.4, 0.3, 0.2, 0.1][:labels]).astype(np.uint8)
    present[::9] = 0
    mass = present * rng.random((count, labels))
    return present, (mass / np.maximum(mass.sum(1, keepdims=True), 1e-9)).astype(np.float32)


def ranking(queries, gallery, own=None):
    """The whole gallery by cosine, the nearest first, in float64; without the query itself."""
    cosines = [
        [float(q @ g) / math.sqrt(float(q @ q) * float(g @ g)) for g in gallery.astype(float)]
        for q in queries.astype(float)
    ]
    return [
        [p for p in sorted(range(len(gallery)), key=lambda p, i=i: (-cosines[i][p], p)) if not (own and p == i)]
        for i in range(len(queries))
    ]


@pytest.fixture(params=[False, True], ids=["gallery", "same split"])
def case(request, monkeypatch):
    """Queries, gallery, their samples, and the naive ranking of the whole gallery."""
    monkeypatch.setattr(retrieval, "_BLOCK", 7)  # several blocks, the last one smaller
    same = request.param
    rng = np.random.default_rng(1)
    gallery = rng.normal(size=(40, 6)).astype(np.float32)
    queries = gallery if same else rng.normal(size=(25, 6)).astype(np.float32)
    of_gallery = samples(40)
    return same, queries, gallery, of_gallery if same else samples(25, seed=2), of_gallery


@pytest.mark.parametrize("k", [1, 10, 39])
def test_neighbours_are_those_of_a_loop(case, k):
    same, queries, gallery, *_ = case
    got = retrieval.neighbours(queries, gallery, k, same=same)
    assert got.tolist() == [row[:k] for row in ranking(queries, gallery, same)]


@pytest.mark.parametrize("k", [1, 10])
def test_average_precision_equals_a_loop(case, k):
    same, queries, gallery, (labels, _), (gallery_labels, _) = case
    nearest = retrieval.neighbours(queries, gallery, k, same=same)
    got = retrieval.average_precision_at_k(nearest, labels, gallery_labels, same=same)
    for i, ranked in enumerate(ranking(queries, gallery, same)):
        relevant = [bool(np.any(labels[i] & gallery_labels[p])) for p in ranked]
        if not any(relevant):
            assert math.isnan(got[i])
            continue
        precisions = [sum(relevant[: r + 1]) / (r + 1) for r in range(k) if relevant[r]]
        assert got[i] == pytest.approx(sum(precisions) / min(k, sum(relevant)), abs=1e-12)


@pytest.mark.parametrize("k", [1, 10])
def test_ndcg_is_that_of_scikit_learn_on_the_intersections(case, k):
    same, queries, gallery, (_, shares), (_, gallery_shares) = case
    nearest = retrieval.neighbours(queries, gallery, k, same=same)
    got = retrieval.ndcg_at_k(nearest, shares, gallery_shares, same=same)
    for i, ranked in enumerate(ranking(queries, gallery, same)):
        gains = [
            sum(min(float(a), float(b)) for a, b in zip(shares[i], gallery_shares[p], strict=True)) for p in ranked
        ]
        if not any(gains):
            assert math.isnan(got[i])
            continue
        falling = -np.arange(len(ranked))
        assert got[i] == pytest.approx(ndcg_score([gains], [falling], k=k, ignore_ties=True), abs=1e-12)


def test_dominant_is_the_share_of_neighbours_with_the_same_largest_share(case):
    same, queries, gallery, (labels, shares), (gallery_labels, gallery_shares) = case
    nearest = retrieval.neighbours(queries, gallery, 10, same=same)
    got = retrieval.dominant_at_k(
        nearest, retrieval.dominant_labels(labels, shares), retrieval.dominant_labels(gallery_labels, gallery_shares)
    )
    for i, ranked in enumerate(ranking(queries, gallery, same)):
        if not labels[i].any():
            assert math.isnan(got[i])
            continue
        hits = [
            gallery_labels[p].any()
            and max(range(5), key=lambda j: shares[i][j]) == max(range(5), key=lambda j: gallery_shares[p][j])
            for p in ranked[:10]
        ]
        assert got[i] == pytest.approx(sum(hits) / 10, abs=1e-12)


@pytest.mark.parametrize("k", [1, 10])
def test_one_list_for_all_has_those_that_share_a_label_with_most(case, k):
    same, _, _, (labels, shares), (gallery_labels, gallery_shares) = case
    queries, gallery = Split(NO_INPUTS, labels, shares), Split(NO_INPUTS, gallery_labels, gallery_shares)
    judged = retrieval.judge_one_list(queries, gallery, num_neighbours=k, same=same)
    shared = [sum(bool(np.any(a & b)) for b in gallery_labels) for a in gallery_labels]
    order = sorted(range(len(gallery_labels)), key=lambda p: (-shared[p], p))
    nearest = np.array([[p for p in order if not (same and p == i)][:k] for i in range(len(labels))])
    precisions = retrieval.average_precision_at_k(nearest, labels, gallery_labels, same=same)
    assert judged["mAP"]["value"] == pytest.approx(np.nanmean(precisions), abs=1e-12)
    gains = retrieval.ndcg_at_k(nearest, shares, gallery_shares, same=same)
    assert judged["ndcg_distributions"]["value"] == pytest.approx(np.nanmean(gains), abs=1e-12)


def test_on_dense_labels_one_list_has_a_map_above_that_of_noise_and_little_ndcg():
    """Every sample has label 0 or all others; what has all labels shares one with every query."""
    labels = np.zeros((60, 8), np.uint8)
    labels[:30, 0], labels[30:50, 1:], labels[50:] = 1, 1, 1
    split = Split(NO_INPUTS, labels)
    judged = retrieval.judge_one_list(split, split)
    assert judged["mAP"]["value"] == 1
    # Of a query with label 0 alone a neighbour of all eight has an eighth, the best has all.
    first = retrieval.judge_one_list(Split(NO_INPUTS, labels[:30]), split)
    assert first["ndcg_labels"]["value"] == pytest.approx(1 / 8)


def test_a_part_of_a_large_gallery_says_who_shares_with_most(monkeypatch):
    monkeypatch.setattr(retrieval, "_MOST_ASKED", 20)
    labels = np.eye(50, dtype=np.uint8)
    labels[17] = 1  # shares with all, whoever is asked
    split = Split(NO_INPUTS, labels)
    assert retrieval.judge_one_list(split, split, num_neighbours=1)["mAP"]["value"] == 1


def test_a_ranking_by_the_truth_itself_is_perfect_and_one_by_noise_is_not():
    labels, shares = samples(300)
    # Distributions as far apart as their intersection says: one-hot rows, so that cosine and intersection agree.
    single = np.eye(5, dtype=np.float32)[np.arange(300) % 5]
    split = Split(NO_INPUTS, single.astype(np.uint8), single)
    perfect = retrieval.evaluate_embeddings(single, single, split, split, same=True)
    assert {name: each["value"] for name, each in perfect.items()} == dict.fromkeys(retrieval.MEASURES, 1.0)
    noise = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    split = Split(NO_INPUTS, labels, shares)
    blind = retrieval.evaluate_embeddings(noise, noise, split, split, same=True)
    assert all(each["value"] < 0.8 for each in blind.values())
    assert blind["mAP"]["queries"] == int(labels.any(axis=1).sum())


def test_without_truth_dominant_is_over_the_samples_with_one_label():
    rng = np.random.default_rng(3)
    labels, _ = samples(60)
    gallery_labels, _ = samples(80, seed=5)
    queries, gallery = rng.normal(size=(60, 4)).astype(np.float32), rng.normal(size=(80, 4)).astype(np.float32)
    judged = retrieval.evaluate_embeddings(queries, gallery, Split(NO_INPUTS, labels), Split(NO_INPUTS, gallery_labels))
    assert judged["ndcg_distributions"] == {"value": None, "queries": 0}
    asked, held = np.flatnonzero(labels.sum(1) == 1), np.flatnonzero(gallery_labels.sum(1) == 1)
    hits = []
    for i, ranked in zip(asked, ranking(queries[asked], gallery[held]), strict=True):
        hits.append(np.mean([labels[i].argmax() == gallery_labels[held[p]].argmax() for p in ranked[:10]]))
    assert judged["dominant"]["queries"] == len(asked)
    assert judged["dominant"]["value"] == pytest.approx(np.mean(hits), abs=1e-12)


def test_where_every_sample_has_several_labels_and_no_truth_nothing_is_dominant():
    labels = np.ones((12, 3), np.uint8)
    rows = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    judged = retrieval.evaluate_embeddings(rows, rows, Split(NO_INPUTS, labels), Split(NO_INPUTS, labels), same=True)
    assert judged["dominant"] == {"value": None, "queries": 0}
    assert judged["mAP"]["value"] == 1.0


def test_a_query_among_its_twins_is_not_its_own_neighbour_and_loses_none_of_its_places():
    rows = np.ones((6, 3), np.float32)
    nearest = retrieval.neighbours(rows, rows, 3, same=True)
    assert nearest.shape == (6, 3)
    for i, row in enumerate(nearest.tolist()):
        assert i not in row
        assert len(set(row)) == 3


def test_of_two_neighbours_with_the_dominant_label_the_one_with_the_like_distribution_gains_more():
    shares = np.array([[0.6, 0.4]])
    gallery = np.array([[1.0, 0.0], [0.6, 0.4]])
    assert retrieval.ndcg_at_k(np.array([[1, 0]]), shares, gallery)[0] == pytest.approx(1)
    swapped = retrieval.ndcg_at_k(np.array([[0, 1]]), shares, gallery)[0]
    assert swapped == pytest.approx((0.6 + 1 / math.log2(3)) / (1 + 0.6 / math.log2(3)))


def test_a_gallery_of_100_000_fits_into_memory():
    rng = np.random.default_rng(0)
    gallery_labels = (rng.random((100_000, 20)) < 0.1).astype(np.uint8)
    labels = (rng.random((200, 20)) < 0.1).astype(np.uint8)
    gallery, queries = rng.normal(size=(100_000, 8)).astype(np.float32), rng.normal(size=(200, 8)).astype(np.float32)
    tracemalloc.start()
    judged = retrieval.evaluate_embeddings(queries, gallery, Split(NO_INPUTS, labels), Split(NO_INPUTS, gallery_labels))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 600 * 2**20
    assert 0 < judged["ndcg_labels"]["value"] < 1


@pytest.mark.parametrize(
    ("queries", "gallery", "k", "same", "message"),
    [
        ((5, 3), (6, 4), 2, False, "tables of one D"),
        ((5, 3), (0, 3), 2, False, "must hold a sample that is not the query. Received: 0 samples for 5"),
        ((1, 3), (1, 3), 2, True, "must hold a sample that is not the query"),
        ((5, 3), (6, 3), 0, False, "num_neighbours must be above 0"),
    ],
)
def test_what_cannot_be_searched_is_refused(queries, gallery, k, same, message):
    with pytest.raises(InputError, match=message):
        retrieval.neighbours(np.ones(queries, np.float32), np.ones(gallery, np.float32), k, same=same)


@pytest.mark.parametrize("same", [False, True])
def test_one_list_needs_a_sample_that_is_not_the_query(same):
    queries, gallery = (Split(NO_INPUTS, np.ones((count, 2), np.uint8)) for count in (1, int(same)))
    with pytest.raises(InputError, match=r"must hold a sample that is not the query\. Received: [01] samples for 1"):
        retrieval.judge_one_list(queries, gallery, same=same)
