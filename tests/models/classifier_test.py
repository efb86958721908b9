import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.optimizers.adamw import KernelAdamW
from mulsupcon_tf.serving.saved_model import in_float32
from mulsupcon_tf.utils.errors import InputError

FEATURES, WIDTH, LABELS = 5, 8, 3
RNG = np.random.default_rng(0)
SAMPLES = (RNG.normal(size=(40, FEATURES)) * 2 + 3).astype(np.float32)
TRUTH = (SAMPLES[:, :LABELS] > 3).astype(np.float32)


def backbone(dropout=0.5):
    inputs = keras.Input((FEATURES,))
    x = keras.layers.BatchNormalization(momentum=0.5)(keras.layers.Dense(WIDTH, activation="relu")(inputs))
    return keras.Model(inputs, keras.layers.Dropout(dropout)(x), name="backbone")


def classifier(*, linear_probe=False, **options):
    keras.utils.set_random_seed(0)
    model = MultiLabelClassifier(backbone(**options), LABELS, linear_probe=linear_probe)
    model.compile(
        optimizer=KernelAdamW(1e-2, weight_decay=1e-3), loss=keras.losses.BinaryCrossentropy(from_logits=True)
    )
    return model


def train(model, steps=20):
    stream = tf.data.Dataset.from_tensor_slices((SAMPLES, TRUTH)).repeat().batch(10)
    return model.fit(stream, steps_per_epoch=steps, epochs=2, verbose=0).history["loss"]


def logits_of(model, samples):
    """Inference in float64 from the weights: dense, moving statistics, linear layer."""
    dense, normalisation = (layer for layer in model.backbone.layers if layer.weights)
    kernel, bias = (np.asarray(weight, np.float64) for weight in dense.weights)
    gamma, beta, mean, variance = (np.asarray(weight, np.float64) for weight in normalisation.weights)
    features = (np.maximum(samples @ kernel + bias, 0) - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    kernel, bias = (np.asarray(weight, np.float64) for weight in model.head.weights)
    return features, features @ kernel + bias


def test_output_is_logits_and_probabilities_are_their_sigmoid():
    model = classifier()
    train(model)
    features, logits = logits_of(model, SAMPLES)
    np.testing.assert_allclose(model.predict(SAMPLES, verbose=0), logits, rtol=1e-4, atol=1e-5)
    probabilities, embedding = model.embed_and_classify(SAMPLES)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(embedding, features, rtol=1e-4, atol=1e-5)


def test_the_loss_is_binary_cross_entropy_over_samples_and_labels():
    model = classifier()
    train(model)
    probabilities = 1 / (1 + np.exp(-logits_of(model, SAMPLES)[1]))
    expected = -(TRUTH * np.log(probabilities) + (1 - TRUTH) * np.log(1 - probabilities)).mean()
    got = model.evaluate(SAMPLES, TRUTH, batch_size=40, return_dict=True, verbose=0)["loss"]
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_fine_tuning_moves_every_weight_and_the_loss_falls():
    model = classifier(dropout=0.0)
    weights = [*model.backbone.weights, *model.head.weights]
    before = [variable.numpy() for variable in weights]
    losses = train(model)
    assert losses[1] < losses[0] - 0.1
    for old, variable in zip(before, weights, strict=True):
        assert np.abs(variable.numpy() - old).max() > 1e-4, variable.path


def test_a_linear_probe_leaves_the_backbone_bit_identical_and_learns():
    model = classifier(linear_probe=True)
    before = [variable.numpy() for variable in model.backbone.variables]
    head = model.head.get_weights()
    losses = train(model)
    for old, variable in zip(before, model.backbone.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy(), err_msg=variable.path)
    assert all((old != new).any() for old, new in zip(head, model.head.get_weights(), strict=True))
    assert losses[1] < losses[0]
    assert {id(v) for v in model.trainable_variables} == {id(v) for v in model.head.trainable_variables}


def test_a_linear_probe_trains_on_the_backbone_in_inference_mode():
    model = classifier(linear_probe=True)
    np.testing.assert_array_equal(model(SAMPLES, training=True), model(SAMPLES, training=False))
    tuned = classifier()
    assert (tuned(SAMPLES, training=True).numpy() != tuned(SAMPLES, training=False).numpy()).any()


@pytest.mark.parametrize("linear_probe", [False, True])
def test_a_saved_classifier_is_the_same_one(tmp_path, linear_probe):
    model = classifier(linear_probe=linear_probe)
    train(model, steps=3)
    model.save(tmp_path / "model.keras")
    twin = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model.predict(SAMPLES, verbose=0), twin.predict(SAMPLES, verbose=0))
    assert twin.linear_probe == linear_probe
    assert twin.name == model.name
    assert len(twin.trainable_variables) == len(model.trainable_variables)


def test_calibration_is_in_the_probabilities_alone_and_is_saved(tmp_path):
    model = classifier()
    train(model, steps=3)
    logits = logits_of(model, SAMPLES)[1]
    model.calibrate(2.5, -0.75)
    twin = in_float32(model)
    np.testing.assert_allclose(model.predict(SAMPLES, verbose=0), logits, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "model.keras")
    for each in (model, twin, keras.models.load_model(tmp_path / "model.keras")):
        expected = 1 / (1 + np.exp(-(logits / 2.5 - 0.75)))
        np.testing.assert_allclose(each.embed_and_classify(SAMPLES)[0], expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match=r"logit_temperature must be above 0\. Received: logit_temperature=0"):
        model.calibrate(0)


def test_the_twin_in_float32_standardises_by_the_statistics_that_a_layer_was_adapted_to():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    normalization = keras.layers.Normalization(dtype="float32")
    normalization.adapt(SAMPLES * 100)
    inputs = keras.Input((FEATURES,))
    model = MultiLabelClassifier(keras.Model(inputs, keras.layers.Dense(WIDTH)(normalization(inputs))), LABELS)
    twin = in_float32(model)
    assert twin.backbone is not model.backbone
    np.testing.assert_allclose(twin(SAMPLES * 100), model(SAMPLES * 100), rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_under_mixed_precision_logits_are_float32_and_large_features_reach_the_backbone_whole(policy):
    keras.mixed_precision.set_dtype_policy(policy)
    train_features = (SAMPLES * 1e4 + 1e6).astype(np.float32)  # beyond float16, and beyond the digits of bfloat16
    inputs = keras.Input((FEATURES,))
    scaled = keras.layers.Normalization(
        mean=train_features.mean(0), variance=train_features.var(0, dtype=np.float64), dtype="float32"
    )(inputs)
    model = MultiLabelClassifier(keras.Model(inputs, keras.layers.Dense(WIDTH)(scaled), name="backbone"), LABELS)
    logits = model(train_features)
    assert logits.dtype == "float32"
    features = (train_features - train_features.mean(0)) / train_features.std(0, dtype=np.float64)
    kernel, bias = (np.asarray(weight, np.float64) for weight in model.backbone.layers[-1].weights)
    head_kernel, head_bias = (np.asarray(weight, np.float64) for weight in model.head.weights)
    expected = (features @ kernel + bias) @ head_kernel + head_bias
    np.testing.assert_allclose(logits, expected, atol=0.05)
