import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.losses import contrastive as losses
from mulsupcon_tf.losses import methods as pretraining_losses
from mulsupcon_tf.losses import recovery as label_distribution
from mulsupcon_tf.models import key_batch
from mulsupcon_tf.models.key_batch import BLOCK, CandidateKeys, KeyBatch
from mulsupcon_tf.models.key_queue import KeyQueue
from tests.helpers import naive_losses as naive

SETTINGS = {"temperature": 0.1, "temperature_d": 0.5, "rbf_sigma": 0.1}
WHOLE = pretraining_losses.Counts(1.0, 1.0, 1.0)


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
    monkeypatch.setattr(key_batch, "BLOCK", 8)
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
    monkeypatch.setattr(key_batch, "BLOCK", 8)
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
    monkeypatch.setattr(key_batch, "BLOCK", 8)
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
