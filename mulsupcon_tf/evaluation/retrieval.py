"""Judges an embedding as a search engine: what the k nearest gallery samples of a query have in common with it.

Notation: N queries, M gallery samples, k neighbours p_i1 ... p_ik of query i, the nearest first, y logical labels,
t label distributions (rows sum to 1, a row of zeros for a sample without labels). All sums are float64.

mAP@k and nDCG of labels need labels only. dominant@k and nDCG of distributions need the *true* distributions. Where these
are not known, nothing takes their place: distributions that a run recovered would let the run judge itself, and the most
frequent or the rarest label of a sample is a guess that rewards a ranking by frequency. What can be said without truth is
which label dominates a sample that has only one; dominant@k is then taken over those queries and gallery samples.

mAP@k asks for one label in common, which samples of many or of frequent labels have with nearly every query. On data with
several labels a sample one list for all queries can beat every embedding in it; `judge_one_list` says what that list gets.
In nDCG it gets little, since a long list of labels has little in common with a short one.

References:
    [1] Järvelin, Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques, TOIS 2002: nDCG.
    [2] Swain, Ballard, Color Indexing, IJCV 1991: the intersection of two distributions, which is the gain here.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from keras import ops

from mulsupcon_tf.datasets.base import Split
from mulsupcon_tf.evaluation.distribution_distances import uniform_label_distribution
from mulsupcon_tf.evaluation.neighbours import nearest_rows
from mulsupcon_tf.utils.choices import SEARCHED_NEIGHBOURS
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import require_positive

MEASURES = ("mAP", "ndcg_labels", "dominant", "ndcg_distributions")
_BLOCK = 128  # queries whose gains over the whole gallery are in memory at once: 100 MB for a gallery of 100,000
_MOST_ASKED = 10_000  # gallery samples that say who shares a label with most; all of a large gallery would take minutes


def neighbours(queries: np.ndarray, gallery: np.ndarray, num_neighbours: int, *, same: bool = False) -> np.ndarray:
    """Rows of the gallery that are nearest to each query by cosine, `[N, k]` int64, the nearest first.

    Args:
        queries: `[N, D]`.
        gallery: `[M, D]`.
        num_neighbours: k; all of the gallery where it is smaller.
        same: whether queries and gallery are the same samples in the same order; a query is then no neighbour of itself.

    Raises:
        InputError: the tables do not fit each other, no neighbour is there, or k is not above 0.
    """
    require_positive(num_neighbours=num_neighbours)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise InputError(
            "queries [N, D] and gallery [M, D] must be tables of one D. "
            f"Received: shapes {queries.shape} and {gallery.shape}"
        )
    _require_another(len(queries), len(gallery), same)
    count = min(num_neighbours, len(gallery) - same)
    found = np.empty((len(queries), count), np.int64)
    for rows, _, nearest in nearest_rows(queries, gallery, count + same):
        near = ops.convert_to_numpy(nearest).astype(np.int64)
        if same:
            near = _without_own(near, rows.start)
        found[rows] = near
    return found


def _require_another(num_queries: int, num_gallery: int, same: bool) -> None:
    if num_gallery <= same or (same and num_queries != num_gallery):
        raise InputError(
            "a gallery must hold a sample that is not the query. "
            f"Received: {num_gallery} samples for {num_queries} queries{' of the same split' if same else ''}"
        )


def _without_own(found: np.ndarray, first: int = 0) -> np.ndarray:
    """What was found `[N, k + 1]` without the queries themselves, the samples from `first` on: `[N, k]`."""
    own = found == np.arange(first, first + len(found))[:, None]
    # Where the query is not among them, as where twins have pushed it off, the last one goes.
    own[~own.any(axis=1), -1] = True
    return found[~own].reshape(len(found), -1)


def average_precision_at_k(
    nearest: np.ndarray, labels: np.ndarray, gallery_labels: np.ndarray, *, same: bool = False
) -> np.ndarray:
    """How early the neighbours that share a label come: AP@k of each query.

    AP_i = 1/min(k, R_i) Σ_{r≤k} rel_ir · (1/r) Σ_{s≤r} rel_is,  rel_ir = 1 where y_i · y_{p_ir} > 0, else 0,
    R_i = number of gallery samples that share a label with query i.

    Args:
        nearest: `[N, k]` rows of the gallery, as `neighbours` gives them.
        labels: `[N, C]`, 0 or 1.
        gallery_labels: `[M, C]`, 0 or 1.
        same: as for `neighbours`; R_i does not count the query itself then.

    Returns:
        `[N]` float64; NaN for a query that shares a label with no gallery sample.
    """
    positions = np.arange(1, nearest.shape[1] + 1)
    result = np.full(len(nearest), np.nan)
    columns = gallery_labels.astype(np.float32).T
    for rows in _blocks(len(nearest)):
        shares = (labels[rows].astype(np.float32) @ columns) > 0
        relevant = np.take_along_axis(shares, nearest[rows], axis=1)
        total = shares.sum(axis=1) - same * labels[rows].any(axis=1)
        gained = (relevant * relevant.cumsum(axis=1) / positions).sum(axis=1)
        result[rows] = np.divide(
            gained, np.minimum(total, len(positions)), out=np.full(len(gained), np.nan), where=total > 0
        )
    return result


def dominant_labels(labels: np.ndarray, distributions: np.ndarray | None) -> np.ndarray:
    """Column of the label that describes a sample most, `[N]` int64; -1 where that is not known.

    With true distributions: the largest share, of equal shares the first; -1 for a sample without labels. Without: the
    label of a sample that has exactly one, and -1 for all others (the module's docstring says why).

    Args:
        labels: `[N, C]`, 0 or 1.
        distributions: `[N, C]` true distributions, or None.
    """
    if distributions is not None:
        return np.where(distributions.any(axis=1), distributions.argmax(axis=1), -1)
    return np.where(labels.sum(axis=1) == 1, labels.argmax(axis=1), -1)


def dominant_at_k(nearest: np.ndarray, dominant: np.ndarray, gallery_dominant: np.ndarray) -> np.ndarray:
    """Share of a query's k neighbours that have its dominant label: 1/k Σ_{r≤k} [m_{p_ir} = m_i].

    Args:
        nearest: `[N, k]` rows of the gallery.
        dominant: `[N]` columns m of the queries, -1 where not known.
        gallery_dominant: `[M]` columns of the gallery samples, -1 where not known, which agrees with no query.

    Returns:
        `[N]` float64; NaN for a query whose dominant label is not known.
    """
    agrees = (gallery_dominant[nearest] == dominant[:, None]).mean(axis=1)
    return np.where(dominant >= 0, agrees, np.nan)


def ndcg_at_k(nearest: np.ndarray, shares: np.ndarray, gallery_shares: np.ndarray, *, same: bool = False) -> np.ndarray:
    """How near the ranking is to the best one, when a neighbour is worth what it has in common with the query.

    nDCG_i = DCG(g_i) / DCG(g*_i),  DCG(g) = Σ_{r≤k} g_r / log2(r + 1),  gain g_ir = Σ_j min(t_ij, t_{p_ir j}) in [0, 1],
    g*_i = the k largest gains that the gallery has for query i. A gain is 1 for an equal distribution only: a neighbour
    that shows nothing but the query's dominant label is worth no more than that label's share.

    Args:
        nearest: `[N, k]` rows of the gallery.
        shares: `[N, C]` distributions t of the queries: true ones, or y/|y| to judge by labels.
        gallery_shares: `[M, C]` distributions of the gallery samples.
        same: as for `neighbours`; the best ranking does not hold the query itself then.

    Returns:
        `[N]` float64; NaN for a query that has nothing in common with any gallery sample.
    """
    count = nearest.shape[1]
    discounts = 1 / np.log2(np.arange(2, count + 2))
    columns = [np.flatnonzero(column) for column in gallery_shares.T]
    result = np.full(len(nearest), np.nan)
    for rows in _blocks(len(nearest)):
        gains = np.zeros((rows.stop - rows.start, len(gallery_shares)))
        for label, members in enumerate(columns):  # most pairs share few labels: only those cost anything
            holders = np.flatnonzero(shares[rows, label])
            common = np.minimum(shares[rows, label][holders, None], gallery_shares[members, label].astype(np.float64))
            gains[np.ix_(holders, members)] += common
        gained = np.take_along_axis(gains, nearest[rows], axis=1) @ discounts
        if same:
            gains[np.arange(len(gains)), np.arange(rows.start, rows.stop)] = 0
        best = -np.sort(np.partition(-gains, count - 1, axis=1)[:, :count], axis=1) @ discounts
        result[rows] = np.divide(gained, best, out=np.full(len(gained), np.nan), where=best > 0)
    return result


def evaluate_embeddings(
    embeddings: np.ndarray,
    gallery_embeddings: np.ndarray,
    queries: Split,
    gallery: Split,
    *,
    num_neighbours: int = SEARCHED_NEIGHBOURS,
    same: bool = False,
) -> dict[str, dict[str, Any]]:
    """All measures of one embedding as a search engine, each a mean over the queries for which it is defined.

    The measures are mAP@k, nDCG@k [1] with the intersection of two label distributions [2] as gain, and the share of the
    neighbours that have the query's dominant label; the functions of the module give their formulas.

    Args:
        embeddings: `[N, D]` of the queries, of any length: the nearest are those of the largest cosine.
        gallery_embeddings: `[M, D]`.
        queries: a `Split` of N samples: labels `[N, C]`, and true distributions `[N, C]` where known.
        gallery: the same of the M gallery samples.
        num_neighbours: k, at least 1; all of the gallery where it is smaller.
        same: whether queries and gallery are the same samples in the same order; a query is then no neighbour of itself.

    Returns:
        For each of `MEASURES` {"value": mean in [0, 1], "queries": how many it is over}; the value is None where there is
        no such query. "ndcg_labels" takes y/|y| for the distributions. "ndcg_distributions" takes the true ones, and is
        None without; "dominant" is then over the queries and the gallery samples that have one label.

    Raises:
        InputError: the embeddings do not fit each other, k is not above 0, or the gallery has no sample that is not the query.
    """

    def search(asked: np.ndarray, held: np.ndarray) -> np.ndarray:
        return neighbours(embeddings[asked], gallery_embeddings[held], num_neighbours, same=same)

    return _judge(search, queries, gallery, same=same)


def judge_one_list(
    queries: Split, gallery: Split, *, num_neighbours: int = SEARCHED_NEIGHBOURS, same: bool = False
) -> dict[str, dict[str, Any]]:
    """What a search gets that finds the same for every query: the samples that share a label with most of the gallery.

    An embedding has to find more than that, or its measure says nothing. Arguments and result as of `evaluate_embeddings`.

    Raises:
        InputError: the gallery holds no sample that is not the query.
    """
    _require_another(len(queries), len(gallery), same)
    shared_with = _shared_with(gallery.labels)

    def search(asked: np.ndarray, held: np.ndarray) -> np.ndarray:
        best = np.argsort(-shared_with[held], kind="stable")[: num_neighbours + same]
        found = np.tile(best, (len(asked), 1))
        return _without_own(found) if same else found

    return _judge(search, queries, gallery, same=same)


def _shared_with(labels: np.ndarray) -> np.ndarray:
    """With how many samples each sample shares a label, `[M]`; of many samples with how many of a part of them."""
    asked = labels
    if len(labels) > _MOST_ASKED:
        asked = labels[np.random.default_rng(0).choice(len(labels), _MOST_ASKED, replace=False)]
    columns = asked.astype(np.float32).T
    counts = [((labels[rows].astype(np.float32) @ columns) > 0).sum(axis=1) for rows in _blocks(len(labels))]
    return np.concatenate(counts)


def _judge(
    search: Callable[[np.ndarray, np.ndarray], np.ndarray], queries: Split, gallery: Split, *, same: bool
) -> dict[str, dict[str, Any]]:
    """All measures of a search.

    Args:
        search: from rows of the queries `[n]` and of the gallery `[m]` to what is found, rows of the second `[n, k]`.
        queries: labels, and true distributions where known.
        gallery: the same of the gallery samples.
        same: whether queries and gallery are the same samples.
    """
    nearest = search(np.arange(len(queries)), np.arange(len(gallery)))
    uniform, gallery_uniform = (uniform_label_distribution(split.labels) for split in (queries, gallery))
    values = {
        "mAP": average_precision_at_k(nearest, queries.labels, gallery.labels, same=same),
        "ndcg_labels": ndcg_at_k(nearest, uniform, gallery_uniform, same=same),
    }
    if queries.distributions is not None and gallery.distributions is not None:
        dominant = [dominant_labels(split.labels, split.distributions) for split in (queries, gallery)]
        values["dominant"] = dominant_at_k(nearest, *dominant)
        values["ndcg_distributions"] = ndcg_at_k(nearest, queries.distributions, gallery.distributions, same=same)
    else:
        dominant = [dominant_labels(split.labels, None) for split in (queries, gallery)]
        asked, held = (np.flatnonzero(columns >= 0) for columns in dominant)
        if len(asked) and len(held) > same:
            values["dominant"] = dominant_at_k(search(asked, held), dominant[0][asked], dominant[1][held])
    return {name: _mean(values.get(name, np.array([]))) for name in MEASURES}


def _mean(values: np.ndarray) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    return {"value": float(known.mean()) if known.size else None, "queries": int(known.size)}


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _BLOCK):
        yield slice(start, min(start + _BLOCK, count))
