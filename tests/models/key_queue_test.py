import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.losses.keys import Anchors
from mulsupcon_tf.losses.method import count
from mulsupcon_tf.losses.registry import build_method
from mulsupcon_tf.models import key_queue
from mulsupcon_tf.models.key_queue import BLOCK, CandidateKeys, KeyQueue, gather_key_batch, rows_together
from mulsupcon_tf.utils.errors import InputError
from tests.helpers import naive_losses as naive
from tests.helpers.losses_of_problems import CASES, gradients, naive_losses, name_of, problem_for

EACH = pytest.mark.parametrize("case", CASES, ids=name_of)
DIMENSIONS, LABELS = 3, 2


@pytest.fixture(autouse=True)
def _as_on_a_processor(monkeypatch):
    monkeypatch.setattr(key_queue, "memory_of_gpu", lambda: None)


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
    enqueue = tf.function(queue.enqueue, autograph=False, reduce_retracing=True)
    for number in [3, 1, 0, *rng.integers(1, 2 * capacity + 3, size=25)]:
        batch = rows_of(rng, number)
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


@pytest.mark.parametrize("with_distributions", [False, True])
@pytest.mark.parametrize(("anchors", "labels"), [(64, 80), (256, 1000), (8192, 1000)])
def test_a_block_is_the_largest_power_of_two_that_stays_under_its_share_of_a_gpu(anchors, labels, with_distributions):
    memory, width = 80 * 10**9, 128
    rows = rows_together(anchors, width, labels, with_distributions=with_distributions, memory=memory)
    a, c = (8, 7) if with_distributions else (3, 2)
    share = 4 * rows * (a * anchors + width + c * labels) * 1.5 / memory
    assert rows >= BLOCK == rows_together(anchors, width, labels, with_distributions=with_distributions, memory=None)
    assert rows & (rows - 1) == 0
    assert 0.01 < share <= 0.02 or (rows == BLOCK and share > 0.01)


def test_on_a_gpu_of_much_memory_the_queue_is_seen_at_once(monkeypatch):
    candidates = candidates_of(problem_for("cld", 0, batch=4, queued=2 * BLOCK + 5), capacity=2 * BLOCK + 5)
    seen = []
    for memory in (None, 10**6, 10**10):
        monkeypatch.setattr(key_queue, "memory_of_gpu", lambda memory=memory: memory)
        sizes = []
        candidates.statistics(lambda block, sizes=sizes: sizes.append(block.bias.shape[0]) or {})
        seen.append(sizes)  # the batch goes with the first block
    third = -(-(2 * BLOCK + 5) // 3)
    assert seen == [[third + 4, third, third], [third + 4, third, third], [2 * BLOCK + 9]]


def test_filled_slots_are_the_first_ones_until_it_is_full():
    queue = KeyQueue(10, DIMENSIONS, LABELS)
    batch = rows_of(np.random.default_rng(0), 4)
    queue.enqueue(*batch)
    np.testing.assert_array_equal(queue.keys.numpy()[:4], batch[0])
    np.testing.assert_array_equal(queue.keys.numpy()[4:], 0)


def test_writes_in_place():
    queue = KeyQueue(50, DIMENSIONS, LABELS)
    batch = [tf.constant(part) for part in rows_of(np.random.default_rng(0), 4)]
    graph = tf.function(queue.enqueue, autograph=False).get_concrete_function(*batch).graph
    scattered = [op.inputs[0] for op in graph.get_operations() if op.type == "ResourceScatterUpdate"]
    assigned = [op.inputs[1].shape for op in graph.get_operations() if op.type == "AssignVariableOp"]
    assert len(scattered) == 3
    assert [shape.rank for shape in assigned] == [0, 0]  # position and fill; a queue that is assigned is copied


def test_labels_are_written_as_a_gpu_can():
    # TensorFlow's kernel for bool on a GPU takes int32 indices only; a processor takes any.
    queue = KeyQueue(7, 3, 2)
    rows = [tf.TensorSpec((4, width)) for width in (3, 2, 2)]
    graph = tf.function(queue.enqueue, autograph=False).get_concrete_function(*rows).graph
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
    with pytest.raises(InputError, match=r"^capacity must be at least 1\. Received: capacity=0$"):
        KeyQueue(0, DIMENSIONS, LABELS)


def test_without_distributions_it_keeps_none():
    queue, rng = KeyQueue(5, DIMENSIONS, LABELS, keeps_distributions=False), np.random.default_rng(0)
    keys, labels, distributions = rows_of(rng, 3)
    queue.enqueue(keys, labels)
    queue.enqueue(keys[:1], labels[:1], distributions[:1])  # which are passed over
    assert {weight.name for weight in queue.weights} == {"keys", "labels", "position", "fill"}
    assert (queue.distributions, queue.block(0, 5).distributions) == (None, None)
    assert int(queue.fill) == 4
    assert KeyQueue.from_config(queue.get_config()).distributions is None


# The keys that a batch is compared with


def candidates_of(problem, *, capacity, batch=4):
    """The first keys of a problem as a batch, the others in a queue."""
    rows = [tf.constant(problem[name], tf.float32) for name in ("keys", "key_labels", "key_distributions")]
    queue = KeyQueue(capacity, rows[0].shape[1], rows[1].shape[1])
    queue.enqueue(*(each[batch:] for each in rows))
    return CandidateKeys(gather_key_batch(*(each[:batch] for each in rows)), queue)


def losses_and_gradients_of(method, problem, candidates):
    """Losses, and the gradients of the one to minimise by queries, distributions and kernel."""
    z, labels, d, kernel = (
        tf.constant(problem[name], tf.float32) for name in ("queries", "labels", "distributions", "kernel")
    )
    with tf.GradientTape() as tape:
        tape.watch([z, d, kernel])
        anchors = Anchors(z, labels, candidates.batch.keys, d, kernel)
        losses = method.losses(anchors, candidates.statistics(method.of_keys(anchors)), candidates.batch.counts)
    return losses, tape.gradient(losses["loss"], [z, d, kernel], unconnected_gradients="zero")


def test_a_batch_knows_its_keys_labels_and_counts_and_lets_no_gradient_through():
    problem = naive.random_problem(0, batch=4, queued=7, unlabelled=True)
    rows = [tf.constant(problem[name][:4], tf.float32) for name in ("keys", "key_labels", "key_distributions")]
    with tf.GradientTape() as tape:
        tape.watch(rows)
        batch = gather_key_batch(*rows)
        total = sum(tf.reduce_sum(each) for each in batch[:3])
    assert tape.gradient(total, rows) == [None] * 3
    for one, other in zip(batch[:3], rows, strict=True):
        np.testing.assert_array_equal(one, other)
    assert batch.first == 0
    for one, other in zip(batch.counts, count(rows[1]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert gather_key_batch(*rows[:2]).distributions is None
    assert float(candidates_of(problem, capacity=5).number()) == 4 + 5


def assert_losses_are_the_naive_loops(case, block, filled):
    problem = problem_for(case[0], filled, batch=4, queued=filled, unlabelled=True)
    got, _ = losses_and_gradients_of(
        build_method(case[0], **case[1]), problem, candidates_of(problem, capacity=2 * block + 5)
    )
    for name, value in naive_losses(case, problem).items():
        np.testing.assert_allclose(got[name], value, rtol=5e-5, err_msg=name)


@pytest.mark.parametrize(
    ("block", "filled"), [(BLOCK, 9), (64, 64 + 20)], ids=["a part of the first block", "a part of the last block"]
)
@EACH
def test_losses_over_the_blocks_of_a_queue_are_the_naive_loops(monkeypatch, case, block, filled):
    monkeypatch.setattr(key_queue, "BLOCK", block)
    assert_losses_are_the_naive_loops(case, block, filled)


def test_so_they_are_over_a_full_block_of_the_size_in_use():
    assert_losses_are_the_naive_loops(CASES[0], BLOCK, BLOCK + 700)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[1:], ids=name_of)
def test_so_they_are_of_every_method(case):
    assert_losses_are_the_naive_loops(case, BLOCK, BLOCK + 700)


@pytest.mark.parametrize("filled", [4, 19, 26], ids=["a part of the first block", "of the last but one", "full"])
@EACH
def test_blocks_give_the_losses_and_gradients_of_all_keys_at_once(monkeypatch, case, filled):
    """Those of all keys are held against loops and finite differences elsewhere."""
    monkeypatch.setattr(key_queue, "BLOCK", 8)
    problem = problem_for(case[0], filled, batch=4, queued=filled, unlabelled=True)
    assert not problem["labels"][1].any()
    assert not problem["key_labels"][-1].any()
    method = build_method(case[0], **case[1])
    got, slopes = losses_and_gradients_of(method, problem, candidates_of(problem, capacity=26))  # four blocks of 7
    for name, value in naive_losses(case, problem).items():
        np.testing.assert_allclose(got[name], value, rtol=5e-5, atol=1e-5, err_msg=name)
    for one, other in zip(slopes, gradients(method, problem).values(), strict=True):
        np.testing.assert_allclose(one, 0.0 if other is None else other, rtol=1e-4, atol=2e-5)


@EACH
def test_no_block_is_kept_for_a_gradient(case):
    problem = problem_for(case[0], 0, batch=4, queued=9)
    candidates, method = candidates_of(problem, capacity=2 * BLOCK + 5), build_method(case[0], **case[1])
    step = tf.function(lambda: losses_and_gradients_of(method, problem, candidates), autograph=False)
    graph = step.get_concrete_function().graph
    loops = [operation for operation in graph.get_operations() if operation.type in ("While", "StatelessWhile")]
    assert len(loops) == 1  # a second one would be the gradient of the first
    assert not any(operation.type.startswith("TensorList") for operation in graph.get_operations())


@pytest.mark.parametrize("case", [("cld", {"cld_kernel": "softmax"}), ("rld", {})], ids=name_of)
def test_losses_over_blocks_compile_under_xla(case):
    problem, method = problem_for(case[0], 1, batch=4, queued=9), build_method(case[0], **case[1])
    candidates = candidates_of(problem, capacity=2 * BLOCK + 5)
    step = tf.function(lambda: losses_and_gradients_of(method, problem, candidates), autograph=False, jit_compile=True)
    (expected, slopes), (got, got_slopes) = losses_and_gradients_of(method, problem, candidates), step()
    for name, value in expected.items():
        assert float(got[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-6), name
    for one, other in zip(got_slopes, slopes, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
