"""Whether embeddings keep the views of a sample together and spread over the sphere; where distributions put their mass.

Source: Wang and Isola, Understanding Contrastive Representation Learning through Alignment and Uniformity on the
Hypersphere, ICML 2020, arXiv 2005.10242.
"""

from keras import ops

from mulsupcon_tf.losses.method import Counts, count
from mulsupcon_tf.utils.tensors import float_tensors

DIAGNOSTICS = ("embedding_std", "alignment", "uniformity")
OF_DISTRIBUTIONS = ("leak", "distribution_entropy")
# Half a million pairs settle a mean; the tables of all pairs of 8,192 rows would take 626 MB on every device.
MOST_ROWS_IN_PAIRS = 1024


def diagnostics(queries, keys):
    """How the embeddings of a batch lie on the sphere; nothing to be trained on.

    Args:
        queries: `[B, D]` unit rows.
        keys: `[B, D]` unit rows; row i is the other view of sample i.

    Returns:
        Scalars by the names in `DIAGNOSTICS`.
    """
    queries = ops.stop_gradient(queries)
    return {
        # Standard deviation over the batch, times √D: 1 when spread over the sphere, 0 when collapsed.
        "embedding_std": ops.mean(ops.std(queries, axis=0)) * float(queries.shape[-1]) ** 0.5,
        "alignment": alignment(queries, keys),
        # The order of a batch is drawn, so that its first rows are like the others.
        "uniformity": uniformity(queries[:MOST_ROWS_IN_PAIRS]),
    }


def alignment(queries, keys):
    """Mean squared distance between the two views of a sample: mean_i ||q_i − k_i||².

    Args:
        queries: `[B, D]` unit rows.
        keys: `[B, D]` unit rows; row i is the other view of sample i.

    Returns:
        Scalar in [0, 4], float32 (float64 for float64 queries); 0 when the two views of every sample agree.
    """
    queries, keys = float_tensors(queries=(queries, "BD"), keys=(keys, "BD"))
    return ops.mean(ops.sum(ops.square(queries - keys), axis=-1))


def uniformity(embeddings):
    """How evenly embeddings cover the sphere: log of the mean over the pairs i ≠ j of exp(−2 ||q_i − q_j||²).

    Args:
        embeddings: `[B, D]` unit rows.

    Returns:
        Scalar in [−8, 0], float32 (float64 for float64 embeddings): 0 when all are one point, about −4 when they are
        spread over a sphere of many dimensions; 0 for a batch of one, which has no pair.
    """
    (embeddings,) = float_tensors(embeddings=(embeddings, "BD"))
    count = ops.shape(embeddings)[0]
    # For unit rows ||q_i - q_j||² = 2 - 2 q_i·q_j, so no [B, B, D] differences are needed.
    similarities = ops.exp(4.0 * (ops.matmul(embeddings, ops.transpose(embeddings)) - 1.0))
    rows = ops.arange(count)
    others = ops.cast(rows[:, None] != rows, embeddings.dtype)
    pairs = ops.sum(others)
    mean = ops.sum(similarities * others) / ops.maximum(pairs, 1.0)
    return ops.log(ops.where(pairs > 0, mean, 1.0))


def diagnostics_of_distributions(distributions, labels, whole: Counts):
    """What some samples of a batch add to the means of its `leak` and `distribution_entropy`.

    Args:
        distributions: `[N, C]`, rows sum to 1.
        labels: `[N, C]`, 0 or 1.
        whole: counts of the batch.

    Returns:
        Scalars by the names in `OF_DISTRIBUTIONS`.
    """
    part = count(labels)
    entropy = ops.where(part.samples > 0, distribution_entropy(distributions), 0.0)  # a replica may have none of them
    return {
        "leak": label_leak(distributions, labels) * (part.labelled / ops.maximum(whole.labelled, 1.0)),
        "distribution_entropy": entropy * (part.samples / whole.samples),
    }


def label_leak(distributions, labels):
    """Mean mass of distributions on labels that their samples lack, over the samples that have a label.

    Args:
        distributions: `[B, C]`, rows sum to 1.
        labels: `[B, C]`, 0 or 1.

    Returns:
        Scalar in [0, 1], float32 (float64 for float64 distributions); 0 when no sample has a label.

    Raises:
        InputError: shapes disagree.
    """
    distributions, labels = float_tensors(distributions=(distributions, "BC"), labels=(labels, "BC"))
    labelled = ops.cast(ops.any(labels > 0, axis=-1), labels.dtype)
    leaked = ops.sum(distributions * (1.0 - labels), axis=-1)
    return ops.sum(leaked * labelled) / ops.maximum(ops.sum(labelled), 1.0)


def distribution_entropy(distributions):
    """Mean entropy of distributions in nats: ln C when all labels count alike, 0 when one has all the mass.

    Args:
        distributions: `[B, C]`, rows sum to 1.

    Returns:
        Scalar, float32 (float64 for float64 distributions).
    """
    (shares,) = float_tensors(distributions=(distributions, "BC"))
    return ops.mean(-ops.sum(shares * ops.log(ops.where(shares > 0, shares, 1.0)), axis=-1))
