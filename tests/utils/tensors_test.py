import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import (
    float_tensors,
    require_at_least,
    require_choice,
    require_finite,
    require_not_negative,
    require_positive,
    require_within,
)


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        ("float64", "float64"),
        ("float32", "float32"),
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("int64", "float32"),
        ("bool", "float32"),
    ],
)
def test_all_are_cast_to_the_precision_that_the_first_asks_for(given, computed):
    first = keras.ops.cast(np.array([[1.0, 0.0]]), given)
    tensors = float_tensors(a=(first, "BC"), b=(np.ones(1, np.int32), "B"), c=(np.ones((1, 2)), "BC"))
    assert [keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors] == [computed] * 3
    np.testing.assert_array_equal(tensors[0], [[1, 0]])


def test_none_stays_none_and_order_is_kept():
    a, b, c = float_tensors(a=(np.ones((2, 3)), "BD"), b=(None, "B"), c=([5.0, 6.0], "B"))
    assert a.shape == (2, 3)
    assert b is None
    np.testing.assert_array_equal(c, [5, 6])


def test_a_wrong_rank_is_named_with_the_letters():
    with pytest.raises(InputError, match=r"^keys must have the shape \[K, D\]\. Received: shape=\(2,\)$"):
        float_tensors(queries=(np.ones((1, 2)), "BD"), keys=(np.ones(2), "KD"))


def test_a_size_that_two_disagree_on_is_named_with_both_owners():
    with pytest.raises(
        InputError,
        match=r"^keys \[K, D\] and queries must agree on D\. Received: D=4 in keys, D=3 in queries$",
    ):
        float_tensors(queries=(np.ones((5, 3)), "BD"), keys=(np.ones((7, 4)), "KD"))


def test_a_letter_may_stand_twice_in_one_tensor():
    float_tensors(square=(np.ones((3, 3)), "CC"))
    with pytest.raises(InputError, match="C=4 in square, C=3 in square"):
        float_tensors(square=(np.ones((3, 4)), "CC"))


def test_sizes_unknown_while_tracing_are_not_compared_and_known_ones_are():
    @tf.function(input_signature=[tf.TensorSpec((None, 3)), tf.TensorSpec((None, None)), tf.TensorSpec(None)])
    def trace(queries, keys, anything):
        a, b, c = float_tensors(queries=(queries, "BD"), keys=(keys, "BD"), anything=(anything, "BCD"))
        return tf.shape(a)[0] + tf.shape(b)[0] + tf.shape(c)[0]

    assert int(trace(tf.ones((2, 3)), tf.ones((4, 3)), tf.ones((5,)))) == 11

    # Autograph would wrap the error in one of its own.
    @tf.function(input_signature=[tf.TensorSpec((None, 3)), tf.TensorSpec((None, 4))], autograph=False)
    def refuse(queries, keys):
        return float_tensors(queries=(queries, "BD"), keys=(keys, "KD"))

    with pytest.raises(InputError, match="must agree on D"):
        refuse.get_concrete_function()


def test_gradients_pass_through_the_cast():
    x = tf.Variable([[1.0, 2.0]], dtype=tf.float16)
    with tf.GradientTape() as tape:
        (y,) = float_tensors(x=(x, "BD"))
        total = tf.reduce_sum(y * [[3.0, 4.0]])
    np.testing.assert_array_equal(tape.gradient(total, x), [[3, 4]])


def test_numbers_must_be_above_zero():
    require_positive(temperature=0.1, sigma=1e-30)
    for number in (0, -1.0, float("nan")):
        with pytest.raises(InputError, match=rf"^sigma must be above 0\. Received: sigma={number}$"):
            require_positive(temperature=0.1, sigma=number)


def test_a_number_below_0_is_refused():
    require_not_negative(alpha=0.0, beta=3)
    for number in (-1e-9, float("nan")):
        with pytest.raises(InputError, match=rf"^beta must be at least 0\. Received: beta={number}$"):
            require_not_negative(alpha=0.0, beta=number)


def test_a_number_outside_of_its_range_is_refused_in_the_words_of_the_flags():
    require_within(0, 1, momentum=0, share=1.0)
    require_at_least(2, bins=2)
    require_finite(offset=-3.0)
    for call, message in (
        (lambda: require_within(0, 1, share=0.5, momentum=1.5), "momentum must be at most 1. Received: momentum=1.5"),
        (lambda: require_within(0, 1, momentum=-0.1), "momentum must be at least 0. Received: momentum=-0.1"),
        (lambda: require_at_least(2, bins=1), "bins must be at least 2. Received: bins=1"),
        (lambda: require_positive(sigma=float("inf")), "sigma must be a finite number. Received: sigma=inf"),
        (lambda: require_finite(offset=float("nan")), "offset must be a finite number. Received: offset=nan"),
    ):
        with pytest.raises(InputError) as raised:
            call()
        assert str(raised.value) == message


def test_a_choice_that_is_not_offered_is_refused():
    require_choice(("pair", "anchor"), average="anchor")
    for choice in ("label", None, ["pair"]):
        with pytest.raises(InputError) as error:
            require_choice(("pair", "anchor"), average=choice)
        assert str(error.value) == f"average must be one of pair, anchor. Received: average={choice}"
