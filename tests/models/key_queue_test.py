import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.models.key_queue import KeyQueue

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
