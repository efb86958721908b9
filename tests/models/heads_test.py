import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.models.heads import DistributionHead


def test_head_starts_uniform_and_is_the_linear_map():
    head = DistributionHead(3)
    features = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    np.testing.assert_array_equal(head(features), np.zeros((4, 3)))
    assert head.kernel.shape == (5, 3)
    kernel, bias = np.random.default_rng(1).normal(size=(5, 3)), np.array([1.0, -2.0, 0.5])
    head.set_weights([kernel, bias])
    np.testing.assert_allclose(head(features), features @ kernel + bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_head_computes_in_float32_under_a_mixed_policy(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        head = DistributionHead(2)
    finally:
        keras.config.set_dtype_policy(before)
    features = tf.constant([[1.0, 2.0]], tf.bfloat16)
    head(features)
    head.set_weights([np.array([[1.0, 1e-3], [1e-4, 1.0]]), np.zeros(2)])
    assert head(features).dtype == "float32"
    np.testing.assert_allclose(head(features), [[1.0002, 2.001]], rtol=1e-6)  # 1.0002 is no half-precision number


def test_head_survives_saving(tmp_path):
    model = keras.Sequential([keras.Input((5,)), DistributionHead(3, name="head")])
    model.set_weights([np.arange(15.0).reshape(5, 3), np.array([1.0, 2.0, 3.0])])
    assert model.output_shape == (None, 3)
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(restored.get_layer("head"), DistributionHead)
    np.testing.assert_allclose(restored(np.ones((1, 5))), [[31.0, 37.0, 43.0]])
