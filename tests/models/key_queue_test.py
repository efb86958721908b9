import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.losses import contrastive as losses
from mulsupcon_tf.losses import methods as pretraining_losses
from mulsupcon_tf.losses import recovery as label_distribution
from mulsupcon_tf.models import key_queue
from mulsupcon_tf.models.key_queue import BLOCK, CandidateKeys, KeyBatch, KeyQueue
from tests.helpers import naive_losses as naive

SETTINGS = {"temperature": 0.1, "temperature_d": 0.5, "rbf_sigma": 0.1}
WHOLE = pretraining_losses.Counts(1.0, 1.0, 1.0)

DIMENSIONS, LABELS = 3, 2


def rows_of(rng, count):
    keys = rng.normal(size=(count, DIMENSIONS)).astype(np.float32)
    labels = rng.integers(0, 2, size=(count, LABELS)).astype(np.float32)
    return keys, labels, rng.random((count, LABELS)).astype(np.float32)


def oldest_first(queue):
    """The filled slots as rows of (key, labels, distribution), in the order in which they came in."""
    table = np.concatenate([queue.keys.numpy(), queue.labels.numpy(), queue.distributions.numpy()], axis=1)
    capacity, fill, position = len(table), int(queue.fill), int(queue.position)
    return table[[(position - fill + age) % capacity for age in range(fill)]]


@pytest.mark.parametrize("capacity", [1, 7, 12])
def test_holds_the_last_rows_like_a_deque(capacity):
    rng = np.random.default_rng(capacity)
    queue, naive = KeyQueue(capacity, DIMENSIONS, LABELS), collections.deque(maxlen=capacity)
    enqueue = tf.function(queue.enqueue, reduce_retracing=True)
    for count in [3, 1, 0, *rng.integers(1, 2 * capacity + 3, size=25)]:
        batch = rows_of(rng, count)
        enqueue(*batch)
        naive.extend(np.concatenate(row) for row in zip(*batch, strict=True))
        np.testing.assert_array_equal(oldest_first(queue), np.array(naive))
        assert int(queue.fill) == len(naive)
        np.testing.assert_array_equal(queue.block(0, capacity).bias.numpy() == 0, np.arange(capacity) < len(naive))


def test_a_block_is_some_slots_in_float32_with_the_empty_ones_and_those_beyond_the_end_hidden():
    queue, rng = KeyQueue(10, DIMENSIONS, LABELS), np.random.default_rng(1)
    keys, labels, distributions = rows_of(rng, 7)
    queue.enqueue(keys, labels, distributions)
    queue.labels.assign(np.concatenate([labels, np.ones((3, LABELS))]))  # what lies in an empty slot is not seen
    block = queue.block(tf.constant(4, tf.int64), 8)
    assert {tensor.dtype for tensor in block} == {tf.float32}
    np.testing.assert_array_equal(block.embeddings.numpy()[:3], keys[4:])
    np.testing.assert_array_equal(block.labels.numpy(), np.concatenate([labels[4:], np.zeros((5, LABELS))]))
    np.testing.assert_array_equal(block.distributions.numpy()[:3], distributions[4:])
    np.testing.assert_array_equal(block.bias.numpy() == 0, [True] * 3 + [False] * 5)


def test_filled_slots_are_the_first_ones_until_it_is_full():
    queue = KeyQueue(10, DIMENSIONS, LABELS)
    batch = rows_of(np.random.default_rng(0), 4)
    queue.enqueue(*batch)
    np.testing.assert_array_equal(queue.keys.numpy()[:4], batch[0])
    np.testing.assert_array_equal(queue.keys.numpy()[4:], 0)


def test_writes_in_place():
    queue = KeyQueue(50, DIMENSIONS, LABELS)
    batch = [tf.constant(part) for part in rows_of(np.random.default_rng(0), 4)]
    graph = tf.function(queue.enqueue).get_concrete_function(*batch).graph
    scattered = [op.inputs[0] for op in graph.get_operations() if op.type == "ResourceScatterUpdate"]
    assigned = [op.inputs[1].shape for op in graph.get_operations() if op.type == "AssignVariableOp"]
    assert len(scattered) == 3
    assert [shape.rank for shape in assigned] == [0, 0]  # position and fill; a queue that is assigned is copied


def test_labels_are_written_as_a_gpu_can():
    # TensorFlow's kernel for bool on a GPU takes int32 indices only; a processor takes any.
    queue = KeyQueue(7, 3, 2)
    rows = [tf.TensorSpec((4, width)) for width in (3, 2, 2)]
    graph = tf.function(queue.enqueue).get_concrete_function(*rows).graph
    writes = [operation for operation in graph.get_operations() if operation.type == "ResourceScatterUpdate"]
    kinds = {operation.get_attr("dtype"): operation.get_attr("Tindices") for operation in writes}
    assert kinds == {tf.float32: tf.int32, tf.bool: tf.int32}


def test_everything_is_a_weight_and_nothing_is_trained():
    queue = KeyQueue(5, DIMENSIONS, LABELS)
    assert {weight.name for weight in queue.weights} == {"keys", "labels", "distributions", "position", "fill"}
    assert queue.trainable_weights == []


def test_is_restored_from_a_file_and_goes_on_where_it_was(tmp_path):
    rng = np.random.default_rng(3)
    queue, twin = KeyQueue(7, DIMENSIONS, LABELS), None
    queue.enqueue(*rows_of(rng, 5))
    queue.enqueue(*rows_of(rng, 4))
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1), queue])
    model.save_weights(tmp_path / "queue.weights.h5")
    twin = KeyQueue.from_config(queue.get_config())
    keras.Sequential([keras.Input((1,)), keras.layers.Dense(1), twin]).load_weights(tmp_path / "queue.weights.h5")
    following = rows_of(rng, 3)
    for each in (queue, twin):
        each.enqueue(*following)
    np.testing.assert_array_equal(oldest_first(twin), oldest_first(queue))
    np.testing.assert_array_equal(oldest_first(twin)[-3:, :DIMENSIONS], following[0])


def test_labels_take_a_byte_and_the_rest_stays_float32_under_mixed_precision():
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    queue = KeyQueue(5, DIMENSIONS, LABELS)
    queue.enqueue(*(tf.cast(part, tf.float16) for part in rows_of(np.random.default_rng(0), 2)))
    assert (queue.keys.dtype, queue.labels.dtype, queue.distributions.dtype) == ("float32", "bool", "float32")


def test_a_capacity_below_1_is_refused():
    with pytest.raises(ValueError, match=r"at least 1\. Received: capacity=0"):
        KeyQueue(0, DIMENSIONS, LABELS)


def problem_of(filled, *, capacity, batch=4):
    """A batch and a queue as tensors, and the same as one array of keys."""
    problem = naive.random_problem(filled, batch=batch, queued=filled, unlabelled=True)
    return problem, candidates_of(problem, capacity=capacity, batch=batch)


def candidates_of(problem, *, capacity, batch=4):
    """The first keys of a problem as a batch, the others in a queue."""
    rows = [tf.constant(problem[name], tf.float32) for name in ("keys", "key_labels", "key_distributions")]
    queue = KeyQueue(capacity, rows[0].shape[1], rows[1].shape[1])
    queue.enqueue(*(each[batch:] for each in rows))
    return CandidateKeys(KeyBatch(*(each[:batch] for each in rows), first=0, counts=None), queue)


def losses_and_gradients(method, problem, candidates, **settings):
    """As numbers and arrays."""
    parts, gradients = losses_and_gradients_of(method, problem, candidates, **settings)
    return [float(part) for part in parts], [gradient.numpy() for gradient in gradients]


def losses_and_gradients_of(method, problem, candidates, *, rho=0.5, **settings):
    """Contrastive and similarity loss, and the gradients of their sum by queries and distributions."""
    queries, labels, distributions = (
        tf.constant(problem[name], tf.float32) for name in ("queries", "labels", "distributions")
    )
    with tf.GradientTape() as tape:
        tape.watch([queries, distributions])
        found = candidates.statistics(pretraining_losses.key_statistics(
            method, queries, labels, distributions, **SETTINGS, rho=rho, **settings,
            label_weights=pretraining_losses.label_weights_of(method, distributions, labels, rho=rho),
        ))  # fmt: skip
        weights = label_distribution.label_weights(distributions, labels, rho=rho)
        parts = [pretraining_losses.contrastive_loss(
            method, queries, labels, weights, found, temperature=0.1, own_keys=candidates.batch.keys, share=WHOLE
        )]  # fmt: skip
        if method in pretraining_losses.RECOVERY_METHODS:
            parts.append(pretraining_losses.recovery_losses(
                method, distributions, labels, found, kernel=tf.zeros((1, 1)), temperature_d=0.5, alpha=0.0, beta=0.0,
                share=WHOLE,
            )["similarity_loss"])  # fmt: skip
        total = tf.add_n(parts)
    return parts, tape.gradient(total, [queries, distributions], unconnected_gradients=tf.UnconnectedGradients.ZERO)


def naive_losses(method, problem, distributions=None):
    distributions = problem["distributions"] if distributions is None else distributions
    pairs = problem["queries"], problem["keys"], problem["labels"], problem["key_labels"]
    rules = {
        "any": naive.share_a_label, "all": naive.have_the_same_labels, "jaccard": naive.jaccard_of_at_least(0.5)
    }  # fmt: skip
    if method in rules or method == "self":
        own = np.eye(len(pairs[0]), len(pairs[1]))
        positives = own if method == "self" else naive.positives_by(rules[method], *pairs[2:])
        return [naive.supervised_contrastive(*pairs[:2], positives, temperature=0.1)]
    weights = naive.label_weights(problem["distributions"], problem["labels"], 0.5)
    contrast = naive.weighted_contrastive(*pairs, weights, temperature=0.1)
    inputs = distributions, problem["key_distributions"], *pairs[2:]
    if method == "cld":
        return [contrast, naive.contrastive_similarity(*inputs, temperature=0.5)]
    if method == "rld":
        return [contrast, naive.rbf_similarity(*inputs, queries=pairs[0], keys=pairs[1], sigma=0.1)]
    return [contrast]


@pytest.mark.parametrize("method", pretraining_losses.METHODS)
@pytest.mark.parametrize("filled", [9, BLOCK + 700], ids=["a part of the first block", "a part of the last block"])
def test_losses_over_the_blocks_of_a_queue_are_the_naive_loops(method, filled):
    problem, candidates = problem_of(filled, capacity=2 * BLOCK + 5)
    got, _ = losses_and_gradients(method, problem, candidates)
    np.testing.assert_allclose(got, naive_losses(method, problem), rtol=2e-5)


@pytest.mark.parametrize("temperature", [0.01, 0.049, 0.05, 0.1, 2.0])
def test_an_anchor_opposite_to_all_keys_has_the_loss_of_the_naive_loop_at_any_temperature(temperature):
    problem = naive.random_problem(0, batch=4, queued=60)
    problem["keys"] = np.abs(problem["keys"])
    problem["queries"] = np.abs(problem["queries"])
    problem["queries"][0] = -problem["keys"].mean(axis=0) / np.linalg.norm(problem["keys"].mean(axis=0))
    pairs = (problem[name] for name in ("queries", "keys", "labels", "key_labels"))
    weights = naive.uniform_weights(problem["labels"])
    expected = naive.weighted_contrastive(*pairs, weights, temperature=temperature)

    queries, labels = (tf.constant(problem[name], tf.float32) for name in ("queries", "labels"))
    found = candidates_of(problem, capacity=70).statistics(pretraining_losses.key_statistics(
        "mulsupcon", queries, labels, None, **SETTINGS | {"temperature": temperature}
    ))  # fmt: skip
    got = pretraining_losses.contrastive_loss(
        "mulsupcon", queries, labels, tf.constant(weights, tf.float32), found, temperature=temperature, own_keys=None,
        share=WHOLE,
    )  # fmt: skip
    assert float(got) == pytest.approx(expected, rel=2e-5)
    logits = problem["queries"] @ problem["keys"].T / temperature
    softmax = np.exp([naive.log_softmax(row) for row in logits])
    np.testing.assert_allclose(found["contrast"].mean, softmax @ problem["keys"], rtol=1e-4)


@pytest.mark.parametrize("method", pretraining_losses.METHODS)
def test_gradients_over_the_blocks_are_those_of_the_losses_over_all_keys_at_once(method):
    problem, candidates = problem_of(2 * BLOCK + 5, capacity=2 * BLOCK + 5)
    _, got = losses_and_gradients(method, problem, candidates)
    queries, labels, distributions, keys, key_labels, key_distributions = (
        tf.constant(problem[name])
        for name in ("queries", "labels", "distributions", "keys", "key_labels", "key_distributions")
    )
    with tf.GradientTape() as tape:  # float64; these functions are held against finite differences
        tape.watch([queries, distributions])
        if method in pretraining_losses.LABEL_WEIGHING_METHODS:
            weights = label_distribution.label_weights(distributions, labels)
            total = losses.weighted_contrastive_loss(queries, keys, key_labels, weights)
        elif method == "self":
            total = losses.supervised_contrastive_loss(queries, keys, losses.own_key_positives(4, len(keys)))
        else:
            positives = pretraining_losses.POSITIVES[method](labels, key_labels)
            total = losses.supervised_contrastive_loss(queries, keys, positives)
        pairs = distributions, key_distributions
        if method == "cld":
            total += label_distribution.contrastive_similarity_loss(*pairs, labels, key_labels)
        if method == "rld":
            cosines = tf.matmul(queries, keys, transpose_b=True)
            total += label_distribution.rbf_similarity_loss(*pairs, cosines, labels, key_labels, sigma=0.1)
    expected = tape.gradient(total, [queries, distributions], unconnected_gradients=tf.UnconnectedGradients.ZERO)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def weighed_keys_contrast(problem, rho, key_rho, queries=None):
    """The contrastive loss by the formula, of anchors and keys weighted by their distributions."""
    queries = problem["queries"] if queries is None else queries
    pairs = queries, problem["keys"], problem["labels"], problem["key_labels"]
    weights = naive.label_weights(problem["distributions"], problem["labels"], rho)
    key_weights = naive.label_weights(problem["key_distributions"], problem["key_labels"], key_rho)
    return naive.weighted_contrastive(*pairs, weights, temperature=0.1, key_weights=key_weights)


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("method", pretraining_losses.LABEL_WEIGHING_METHODS)
@pytest.mark.parametrize("filled", [4, 19], ids=["a part of the first block", "a part of the last but one"])
def test_weighed_keys_over_several_blocks_are_the_naive_loop(monkeypatch, method, rho, filled):
    monkeypatch.setattr(key_queue, "BLOCK", 8)
    problem, candidates = problem_of(filled, capacity=26)  # four blocks of 7
    assert not problem["labels"][1].any()
    assert not problem["key_labels"][-1].any()
    key_rho = {"mulsupcon": 0.0, "truth": 1.0}.get(method, rho)
    parts, gradients = losses_and_gradients(method, problem, candidates, rho=rho, weigh_keys=True)
    np.testing.assert_allclose(parts[0], weighed_keys_contrast(problem, rho, key_rho), rtol=2e-5)
    expected = naive.central_differences(
        lambda queries: weighed_keys_contrast(problem, rho, key_rho, queries), problem["queries"]
    )
    np.testing.assert_allclose(gradients[0], expected, rtol=1e-4, atol=1e-5)
    # The recovery loss does not know of it, and through the weights flows no gradient.
    plain_parts, plain_gradients = losses_and_gradients(method, problem, candidates, rho=rho)
    np.testing.assert_allclose(parts[1:], plain_parts[1:], rtol=1e-6)
    np.testing.assert_allclose(gradients[1], plain_gradients[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", pretraining_losses.LABEL_WEIGHING_METHODS)
@pytest.mark.parametrize("filled", [4, 19], ids=["a part of the first block", "a part of the last but one"])
def test_affinities_over_several_blocks_are_the_naive_loop(monkeypatch, method, filled):
    monkeypatch.setattr(key_queue, "BLOCK", 8)
    problem, candidates = problem_of(filled, capacity=26)
    rho = {"mulsupcon": 0.0, "truth": 1.0}.get(method, 0.5)
    affinities = naive.affinities(
        naive.label_weights(problem["distributions"], problem["labels"], rho),
        naive.label_weights(problem["key_distributions"], problem["key_labels"], rho), power=4.0,
    )  # fmt: skip

    def contrast(queries):
        return naive.supervised_contrastive(queries, problem["keys"], affinities, temperature=0.1)

    parts, gradients = losses_and_gradients(method, problem, candidates, affinity_power=4.0)
    np.testing.assert_allclose(parts[0], contrast(problem["queries"]), rtol=2e-5)
    expected = naive.central_differences(contrast, problem["queries"])
    np.testing.assert_allclose(gradients[0], expected, rtol=1e-4, atol=1e-5)
    plain_parts, plain_gradients = losses_and_gradients(method, problem, candidates)
    np.testing.assert_allclose(parts[1:], plain_parts[1:], rtol=1e-6)
    np.testing.assert_allclose(gradients[1], plain_gradients[1], rtol=1e-5, atol=1e-7)


def test_a_label_to_which_no_key_gives_weight_keeps_the_mean_of_its_keys(monkeypatch):
    monkeypatch.setattr(key_queue, "BLOCK", 8)
    problem = naive.random_problem(3, batch=4, queued=19)
    labels, distributions = problem["key_labels"], problem["key_distributions"]
    labels[:, 0] = [0, 1] * 11 + [0]
    labels[:, 1] = 1 - labels[:, 2]  # so none has label 0 alone, which would have all of the weight
    problem["labels"] = labels[:4].copy()
    distributions[:, 0] = 0.0
    distributions /= distributions.sum(axis=1, keepdims=True)
    candidates = candidates_of(problem, capacity=26)
    [loss, _], _ = losses_and_gradients("cld", problem, candidates, rho=1.0, weigh_keys=True)
    np.testing.assert_allclose(loss, weighed_keys_contrast(problem, 1.0, 1 - 1e-12), rtol=2e-5)  # the limit of ρ -> 1


@pytest.mark.parametrize("keys", [{}, {"weigh_keys": True}, {"affinity_power": 2.0}])
def test_no_block_is_kept_for_a_gradient(keys):
    problem, candidates = problem_of(9, capacity=2 * BLOCK + 5)
    step = tf.function(lambda: losses_and_gradients_of("cld", problem, candidates, **keys))
    graph = step.get_concrete_function().graph
    loops = [operation for operation in graph.get_operations() if operation.type in ("While", "StatelessWhile")]
    assert len(loops) == 1  # a second one would be the gradient of the first
    assert not any(operation.type.startswith("TensorList") for operation in graph.get_operations())


def test_statistics_compile_under_xla():
    problem, candidates = problem_of(9, capacity=2 * BLOCK + 5)
    expected = losses_and_gradients("cld", problem, candidates)[0]

    @tf.function(jit_compile=True)
    def contrast():
        queries, labels, distributions = (
            tf.constant(problem[name], tf.float32) for name in ("queries", "labels", "distributions")
        )
        found = candidates.statistics(
            pretraining_losses.key_statistics("cld", queries, labels, distributions, **SETTINGS)
        )
        weights = label_distribution.label_weights(distributions, labels)
        return pretraining_losses.contrastive_loss(
            "cld", queries, labels, weights, found, temperature=0.1, own_keys=None, share=WHOLE
        )

    assert float(contrast()) == pytest.approx(expected[0], rel=1e-5)
