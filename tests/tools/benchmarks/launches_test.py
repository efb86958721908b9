import pytest
import tensorflow as tf

from tools.benchmarks import launches as benchmark_launches
from tools.benchmarks.images import Case

TINY = Case("resnet8", 16, 4, queue_size=8)


def test_what_computes_is_counted_and_what_hands_on_is_not():
    variable, row = tf.Variable(tf.ones((3, 4))), tf.constant([1.0, 2.0, 3.0, 4.0])

    def function():
        product = tf.matmul(variable, tf.reshape(tf.exp(variable), (4, 3)))
        product = tf.cond(tf.reduce_sum(product) > 1e9, lambda: tf.sin(product), lambda: tf.identity(product))
        variable.assign(tf.tile(product[:, :1], (1, 4)))
        return tf.while_loop(lambda number, _: number < 3, lambda number, x: (number + 1, x - row), (0, row))[1]

    kinds = benchmark_launches.operations_of(function)
    counted = ("MatMul", "Exp", "Sum", "Greater", "Sin", "Tile", "Sub")
    assert [kinds[kind] for kind in counted] == [1] * len(counted)
    assert not {"ReadVariableOp", "Reshape", "Switch", "AssignVariableOp", "Const", "Identity"} & kinds.keys()


@pytest.mark.slow
def test_half_precision_starts_more_and_so_does_recovery():
    cases = [(TINY, "float32"), (TINY, "bfloat16"), (TINY._replace(method="mulsupcon"), "float32")]
    recovery, half, plain = (benchmark_launches._measurement(*case) for case in cases)
    assert (recovery.name, recovery.unit) == ("resnet8, cld, float32", "operations")
    assert plain.values[0] < recovery.values[0] < half.values[0] < 2 * plain.values[0]
