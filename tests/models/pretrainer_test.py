import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.losses.method import presence
from mulsupcon_tf.losses.mulsupconld import CLD
from mulsupcon_tf.losses.registry import build_method
from mulsupcon_tf.models import key_queue
from mulsupcon_tf.models import pretrainer as pretrainer_module
from mulsupcon_tf.models.key_queue import CandidateKeys, gather_key_batch
from mulsupcon_tf.models.pretrainer import ContrastivePretrainer
from mulsupcon_tf.optimizers.adamw import KernelAdamW
from mulsupcon_tf.optimizers.schedules import MomentumRamp, StepSchedule
from mulsupcon_tf.optimizers.sgd import KernelSGD
from mulsupcon_tf.utils.choices import DISTRIBUTION_METHODS, METHODS
from mulsupcon_tf.utils.errors import InputError
from tests.helpers import naive_losses as naive
from tests.helpers.losses_of_problems import CASES, name_of
from tests.helpers.own_methods import AlignAndSpread, keys_within
from tests.helpers.tiny_datasets import tiny_vectors

FEATURES, LABELS, BATCH, DIMENSIONS = 6, 4, 7, 5
BN_MOMENTUM, BN_EPSILON = 0.9, 1e-3
TEMPERATURE = 0.2
EACH = pytest.mark.parametrize("case", CASES, ids=name_of)


def networks(dropout=0.0):
    layers = keras.layers
    inputs = keras.Input((FEATURES,))
    x = layers.Dense(8, name="dense")(inputs)
    x = layers.BatchNormalization(momentum=BN_MOMENTUM, epsilon=BN_EPSILON, name="norm")(x)
    x = layers.Dropout(dropout)(layers.Activation("tanh")(x))
    features = keras.Input((8,))
    return keras.Model(inputs, x, name="backbone"), keras.Model(
        features, layers.Dense(DIMENSIONS)(features), name="head"
    )


def method_of(case, **settings):
    """Of a name, or of one of `CASES`; whatever is a method already stays."""
    if isinstance(case, str):
        case = case, {}
    return (
        build_method(case[0], **{"temperature": TEMPERATURE} | case[1] | settings) if isinstance(case, tuple) else case
    )


def pretrainer(case="cld", *, dropout=0.0, seed=0, optimizer=None, **settings):
    """A compiled model whose key encoder has left its initial values."""
    keras.utils.set_random_seed(seed)
    model = ContrastivePretrainer(
        *networks(dropout), LABELS, method=method_of(case), **{"queue_size": 11, "momentum": 0.9, **settings}
    )
    rng = np.random.default_rng(seed)
    for net in (model.key_backbone, model.key_projection_head):
        net.set_weights([weight + 0.1 * rng.random(weight.shape) for weight in net.get_weights()])
    if model.method.learns_distributions:
        layer = model.distribution_layer
        layer.set_weights([rng.normal(size=weight.shape) for weight in layer.get_weights()])
    model.compile(optimizer=optimizer or KernelAdamW(1e-2, weight_decay=1e-2))
    return model


def batch(seed=0, *, single_label=False, unlabelled=True):
    rng = np.random.default_rng(seed)
    labels = np.zeros((BATCH, LABELS), np.float32) if single_label else (rng.random((BATCH, LABELS)) < 0.4) * 1.0
    labels[np.arange(BATCH), rng.integers(LABELS, size=BATCH)] = 1.0
    if unlabelled:
        labels[2] = 0.0
    views = rng.normal(size=(2, BATCH, FEATURES)).astype(np.float32)
    return (tf.constant(views[0]), tf.constant(views[1])), tf.constant(labels.astype(np.float32))


def batch_for(case, seed=0, **how):
    """For the method that takes true distributions, as much of each label as is drawn here."""
    views, labels = batch(seed, **how)
    if case[0] != "truth":
        return views, labels
    shares = labels * np.random.default_rng(2).uniform(0.05, 1.0, labels.shape).astype(np.float32)
    return views, tf.math.divide_no_nan(shares, tf.reduce_sum(shares, axis=1, keepdims=True))


def fill(model, count, seed=9, single_label=False):
    """Puts `count` keys into the queue and returns them as float64."""
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(count, DIMENSIONS))
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    labels = np.eye(LABELS)[rng.integers(LABELS, size=count)]
    if not single_label:
        labels = np.maximum(labels, rng.random((count, LABELS)) < 0.3)
    distributions = rng.random((count, LABELS))
    if model.method.takes_true_distributions:
        distributions *= labels
    distributions /= distributions.sum(1, keepdims=True)
    model.queue.enqueue(*(tf.constant(rows, tf.float32) for rows in (keys, labels, distributions)))
    return keys, labels, distributions


def losses_of(model, data):
    """What a step's tape sees."""
    (query_view, key_view), labels = data
    keys, encoded = model.encode_keys(key_view), model.encode_queries(query_view)
    distributions = labels if model.method.takes_true_distributions else encoded.distributions
    own = gather_key_batch(keys, presence(labels), distributions)
    return model.losses_of(encoded, labels, CandidateKeys(own, model.queue))


def gradients_of(model, data, part="loss", variables=None):
    with tf.GradientTape() as tape:
        loss = losses_of(model, data)[part]
    variables = model.trainable_variables if variables is None else variables
    gradients = tape.gradient(loss, variables)
    return [np.zeros(v.shape) if g is None else np.asarray(g) for g, v in zip(gradients, variables, strict=True)]


def encoded_by(backbone, head, view):
    """Representations and unit embeddings in float64, from the float outputs of the networks."""
    features = backbone(view, training=True)
    embeddings = np.asarray(keras.ops.cast(head(features, training=True), "float32"), np.float64)
    features = np.asarray(keras.ops.cast(features, "float32"), np.float64)
    return features, embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def naive_losses(model, case, data, queued):
    """The losses by the loops of `naive_losses`, on the model's own embeddings and distributions."""
    (query_view, key_view), labels = data
    truth = np.asarray(labels, np.float64)
    features, queries = encoded_by(model.backbone, model.projection_head, query_view)
    _, keys = encoded_by(model.key_backbone, model.key_projection_head, key_view)
    distributions, kernel = truth, None
    if model.method.learns_distributions:
        kernel, bias = (np.asarray(weight, np.float64) for weight in model.distribution_layer.weights)
        distributions = naive.softmax(features @ kernel + bias)
    own = keys, (truth > 0).astype(float), distributions
    keys, key_labels, key_distributions = (np.concatenate(pair) for pair in zip(own, queued, strict=True))
    problem = {
        "queries": queries,
        "keys": keys,
        "labels": own[1],
        "key_labels": key_labels,
        "distributions": distributions,
        "key_distributions": key_distributions,
        "kernel": kernel,
    }
    settings = {name: value for name, value in case[1].items() if name != "own_distribution"}
    return naive.losses_of(case[0], problem, temperature=TEMPERATURE, **settings)


# The loss


@EACH
def test_the_loss_of_a_step_is_the_naive_loop(case):
    model = pretrainer(case)
    queued = fill(model, 4)
    data = batch_for(case)
    expected = naive_losses(model, case, data, queued)
    got = model.train_step(data)
    assert set(expected) <= set(got)
    for name, value in expected.items():
        np.testing.assert_allclose(float(got[name]), value, rtol=2e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(float(got["log_num_keys"]), math.log(BATCH + 4), rtol=1e-6)


def test_what_a_step_reports_beside_the_losses():
    model = pretrainer("cld")
    _, labels, distributions = fill(model, 4)
    views, own_labels = batch()
    features, _ = encoded_by(model.backbone, model.projection_head, views[0])
    kernel, bias = (np.asarray(weight, np.float64) for weight in model.distribution_layer.weights)
    d, y = naive.softmax(features @ kernel + bias), np.asarray(own_labels, np.float64)
    got = model.train_step((views, own_labels))
    leaks = [(d[i] * (1 - y[i])).sum() for i in range(BATCH) if y[i].any()]
    assert float(got["leak"]) == pytest.approx(np.mean(leaks), rel=1e-5)
    assert float(got["distribution_entropy"]) == pytest.approx(-(d * np.log(d)).sum(1).mean(), rel=1e-5)
    masses = np.concatenate([y, labels]) * np.concatenate([d, distributions])
    assert float(got["positives"]) == pytest.approx((y @ masses.sum(0)).mean(), rel=1e-5)
    assert {"leak", "distribution_entropy"}.isdisjoint(pretrainer("truth").train_step(batch()))
    assert float(pretrainer("any").train_step(batch())["positives"]) == 1.0


@EACH
def test_an_unfilled_slot_is_never_seen(case):
    clean, dirty = pretrainer(case), pretrainer(case)
    for model in (clean, dirty):
        fill(model, 4)
    rng = np.random.default_rng(1)
    for variable in (dirty.queue.keys, dirty.queue.labels, dirty.queue.distributions):
        if variable is not None:
            rows = variable.numpy()
            rows[4:] = 30 * rng.normal(size=rows[4:].shape) if variable is not dirty.queue.labels else 1
            variable.assign(rows)
    data = batch_for(case)
    assert float(losses_of(clean, data)["loss"]) == float(losses_of(dirty, data)["loss"])
    for one, other in zip(gradients_of(clean, data), gradients_of(dirty, data), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@EACH
def test_a_partly_filled_queue_is_a_full_queue_of_the_same_keys(case):
    losses = []
    for queue_size in (11, 4):
        model = pretrainer(case, queue_size=queue_size)
        fill(model, 4)
        losses.append(float(losses_of(model, batch_for(case))["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_with_one_label_a_sample_four_methods_are_supcon():
    losses = []
    for name in ("mulsupcon", "any", "all", "jaccard"):
        model = pretrainer((name, {}))
        fill(model, 4, single_label=True)
        losses.append(float(losses_of(model, batch(single_label=True, unlabelled=False))["contrastive_loss"]))
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


@EACH
def test_the_order_of_the_labels_does_not_matter(case):
    order = np.array([2, 0, 3, 1])
    model, permuted = pretrainer(case), pretrainer(case)
    for each in (model, permuted):
        fill(each, 4)
    if model.method.learns_distributions:
        layer = permuted.distribution_layer
        layer.set_weights([weight[..., order] for weight in layer.get_weights()])
    for variable in (permuted.queue.labels, permuted.queue.distributions):
        if variable is not None:
            variable.assign(variable.numpy()[:, order])
    views, labels = batch_for(case)
    one, other = losses_of(model, (views, labels)), losses_of(permuted, (views, tf.gather(labels, order, axis=1)))
    for name in one:
        assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("case", [case for case in CASES if case[0] != "self"], ids=name_of)
def test_a_batch_without_labels_has_loss_0_and_no_gradient(case):
    case = case[0], case[1] | ({"beta": 0.0} if case[0] in DISTRIBUTION_METHODS else {})
    model = pretrainer(case)
    fill(model, 4)
    views, labels = batch()
    assert float(losses_of(model, (views, 0 * labels))["loss"]) == 0
    assert all((gradient == 0).all() for gradient in gradients_of(model, (views, 0 * labels)))


@pytest.mark.parametrize("own", ["constant", "live"])
@pytest.mark.parametrize("name", DISTRIBUTION_METHODS)
def test_which_networks_each_term_trains(name, own):
    """(7) the encoder by C and by d, (8) by d alone; (12)'s first term the distribution layer only where d_i is live."""
    case = name, {"own_distribution": own} | ({"rbf_sigma": 0.5} if name == "rld" else {})
    model = pretrainer(case)
    fill(model, 4)
    nets = model.backbone, model.projection_head, model.distribution_layer
    trained = {
        part: [
            max(np.abs(g).max() for g in gradients_of(model, batch(), part, net.trainable_variables)) > 1e-5
            for net in nets
        ]
        for part in ("contrastive_loss", "similarity_loss", "alignment_loss")
    }
    assert trained == {
        "contrastive_loss": [True, True, own == "live"],
        "similarity_loss": [True, True, True],
        "alignment_loss": [True, False, True],
    }


@pytest.mark.parametrize("case", [("mulsupcon", {}), ("cld", {})], ids=name_of)
def test_binary_cross_entropy_is_added_with_its_weight(case):
    """To a loss whose weights of the positives add up to 1."""
    model = pretrainer(case, bce_weight=0.3)
    queued, data = fill(model, 4), batch()
    features = np.asarray(model.backbone(data[0][0], training=True), np.float64)
    kernel, bias = (np.asarray(weight, np.float64) for weight in model.classification_layer.weights)
    probabilities, labels = 1 / (1 + np.exp(-features @ kernel - bias)), np.asarray(data[1])
    cross_entropies = -(labels * np.log(probabilities) + (1 - labels) * np.log(1 - probabilities))
    got = losses_of(model, data)
    positives = float(got["positives"])
    assert (positives == 1.0) == (case[0] == "mulsupcon")
    expected = naive_losses(model, case, data, queued)["loss"] / positives + 0.3 * cross_entropies.sum(1).mean()
    np.testing.assert_allclose(float(got["loss"]), expected, rtol=1e-5)
    np.testing.assert_allclose(float(got["bce_loss"]), cross_entropies.mean(), rtol=1e-5)


def test_without_a_label_binary_cross_entropy_is_left():
    model = pretrainer("truth", bce_weight=0.5)
    views, labels = batch()
    got = losses_of(model, (views, 0 * labels))
    assert float(got["loss"]) == pytest.approx(0.5 * LABELS * float(got["bce_loss"]), rel=1e-6)


def test_a_schedule_holds_the_contrastive_and_the_recovery_loss_back():
    method = build_method("cld", temperature=TEMPERATURE, alpha=0.5)
    model = pretrainer(method, bce_weight=0.5, contrastive_weight=StepSchedule(2))
    for step in range(4):
        parts = losses_of(model, batch(step))
        bce = 0.5 * LABELS * float(parts["bce_loss"])
        joined = (float(parts["contrastive_loss"]) + float(parts["recovery_loss"])) / float(parts["positives"])
        assert float(parts["loss"]) == pytest.approx(bce if step < 2 else bce + joined, rel=1e-5)
        model.train_step(batch(step))


# The key side


def test_keys_are_those_of_the_key_encoder_with_the_statistics_of_the_batch():
    model = pretrainer()
    view = np.asarray(batch()[0][1], np.float64)
    kernel, bias, gamma, beta = (np.asarray(v, np.float64) for v in model.key_backbone.weights[:4])
    hidden = view @ kernel + bias
    features = np.tanh((hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + BN_EPSILON) * gamma + beta)
    kernel, bias = (np.asarray(v, np.float64) for v in model.key_projection_head.weights)
    embeddings = features @ kernel + bias
    keys = model.encode_keys(view.astype(np.float32))
    np.testing.assert_allclose(
        keys, embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), rtol=1e-3, atol=1e-5
    )


def weights_by_path(parts):
    """Float64 copies by (which network, path inside it)."""
    named = [(index, weight) for index, part in enumerate(parts) for weight in part.weights]
    return {(index, weight.path.split("/", 1)[-1]): weight.numpy().astype(np.float64) for index, weight in named}


@pytest.mark.parametrize("momentum", [0.9, MomentumRamp(0.999)])
def test_the_key_side_follows_as_a_moving_average_statistics_of_normalisation_too(momentum):
    model = pretrainer(momentum=momentum)
    query = [model.backbone, model.projection_head]
    key = [model.key_backbone, model.key_projection_head]
    for step in range(3):
        m = 0.9 if momentum == 0.9 else (1 + step) / (10 + step)
        expected = weights_by_path(key)
        # encoding the keys moves the key side's own statistics first, as normalisation in training mode does
        kernel, bias = (np.asarray(v, np.float64) for v in model.key_backbone.weights[:2])
        hidden = np.asarray(batch(step)[0][1], np.float64) @ kernel + bias
        for name, value in (("moving_mean", hidden.mean(0)), ("moving_variance", hidden.var(0))):
            place = next(place for place in expected if place[1].endswith(name))
            expected[place] = BN_MOMENTUM * expected[place] + (1 - BN_MOMENTUM) * value
        got_momentum = model.train_step(batch(step))["key_momentum"]
        for (place, value), source in zip(expected.items(), weights_by_path(query).values(), strict=True):
            expected[place] = m * value + (1 - m) * source
        for place, value in weights_by_path(key).items():
            np.testing.assert_allclose(value, expected[place], rtol=1e-4, atol=1e-5, err_msg=str(place))
        model.reset_metrics()
        assert float(got_momentum) == pytest.approx(m)


def test_the_key_encoder_starts_as_a_copy():
    model = ContrastivePretrainer(*networks(), LABELS)
    for query, key in ((model.backbone, model.key_backbone), (model.projection_head, model.key_projection_head)):
        for one, other in zip(query.get_weights(), key.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


@keras.saving.register_keras_serializable(package="tests")
class Standardised(keras.layers.Layer):
    """A layer of one's own around one of Keras."""

    def __init__(self, normalization=None, **kwargs):
        super().__init__(**kwargs)
        self.normalization = normalization or keras.layers.Normalization()

    def build(self, input_shape):
        self.normalization.build(input_shape)

    def call(self, inputs):
        return self.normalization(inputs)


def adapted_layer(place, samples):
    """A `Normalization` that has seen the samples, as it is, in a model within the model, or in a layer of one's own."""
    normalization = keras.layers.Normalization()
    if place == "own":
        layer = Standardised()
        layer.build(samples.shape)
        layer.normalization.adapt(samples)
        return layer
    normalization.adapt(samples)
    return normalization if place == "plain" else keras.Sequential([keras.Input((FEATURES,)), normalization])


@pytest.mark.parametrize("place", ["plain", "model", "own", "given"])
def test_the_key_encoder_standardises_as_the_backbone_does(place, tmp_path):
    samples = np.random.default_rng(0).normal(500, 10, (64, FEATURES)).astype("float32")
    statistics = {"mean": samples.mean(0), "variance": samples.var(0)}
    layer = keras.layers.Normalization(**statistics) if place == "given" else adapted_layer(place, samples)
    inputs = keras.Input((FEATURES,))
    backbone = keras.Model(inputs, keras.layers.Dense(8)(layer(inputs)))
    model = ContrastivePretrainer(backbone, networks()[1], LABELS, queue_size=8)
    expected = backbone(samples).numpy()
    assert np.abs(expected).max() < 20  # of samples around 500
    model.save(tmp_path / "model.keras")
    for each in (model, keras.models.load_model(tmp_path / "model.keras")):
        np.testing.assert_allclose(each.backbone(samples), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(each.key_backbone(samples), each.backbone(samples))


@pytest.mark.parametrize("method", ["cld", "truth", "mulsupcon"])
def test_the_key_side_is_never_trained(method):
    model = pretrainer(method, bce_weight=0.1)
    model.train_step(batch())
    never = {
        id(variable)
        for part in (model.key_backbone, model.key_projection_head, model.queue)
        for variable in part.variables
    }
    trained = {id(variable) for variable in model.trainable_variables}
    assert not trained & never
    expected = [model.backbone, model.projection_head, model.classification_layer]
    expected += [model.distribution_layer] if method == "cld" else []
    assert hasattr(model, "distribution_layer") == (method == "cld")
    assert trained == {id(variable) for net in expected for variable in net.trainable_variables}
    assert trained  # and the same set is what the optimizer keeps moments of
    assert len(model.optimizer.variables) == 2 + 2 * len(trained)


# Gradient accumulation


@keras.saving.register_keras_serializable(package="tests")
class MeanSquare(keras.layers.Layer):
    """Passes its input on and asks for small values: half their mean square."""

    def call(self, inputs):
        self.add_loss(keras.ops.mean(keras.ops.square(inputs)) / 2)
        return inputs


def without_normalisation(case, parts, *, seed=0, optimizer=None, penalties=False, **settings):
    """A compiled model each of whose samples is encoded for itself, so that parts give what the whole gives."""
    keras.utils.set_random_seed(seed)
    inputs, features = keras.Input((FEATURES,)), keras.Input((8,))
    square, decay = (MeanSquare(), keras.regularizers.L2(0.3)) if penalties else (keras.layers.Identity(), None)
    backbone = keras.Model(inputs, keras.layers.Dense(8, activation="tanh", kernel_regularizer=decay)(inputs))
    head = keras.Model(features, square(keras.layers.Dense(DIMENSIONS, bias_regularizer=decay)(features)))
    model = ContrastivePretrainer(
        backbone,
        head,
        LABELS,
        method=method_of(case),
        queue_size=19,
        momentum=0.9,
        gradient_accumulation_steps=parts,
        **settings,
    )
    model.compile(optimizer=optimizer or KernelSGD(0.02, weight_decay=0.01))
    fill(model, 4)
    return model


def with_loss_scale(optimizer):
    """What Keras puts around an optimizer under float16, of a scale at which the first steps do not overflow."""
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0)


def batch_of_8(seed, unlabelled=(2, 3, 7)):
    """In four parts the second has no label, in two both have."""
    views = np.random.default_rng(seed).normal(size=(2, 8, FEATURES))
    labels = (np.random.default_rng(seed + 50).random((8, LABELS)) < 0.5) * 1.0
    labels[:, seed % LABELS] = 1.0
    labels[list(unlabelled)] = 0.0
    return tuple(tf.constant(view, tf.float32) for view in views), tf.constant(labels, tf.float32)


def assert_parts_give_the_steps_of_the_whole(case, numbers=(2, 4), *, compiled=False, **settings):
    whole = without_normalisation(case, 1, **settings)
    expected = [{name: float(value) for name, value in whole.train_step(batch_of_8(step)).items()} for step in range(3)]
    for parts in numbers:
        model = without_normalisation(case, parts, **settings)
        take_step = tf.function(model.train_step, autograph=False) if parts == 4 and compiled else model.train_step
        for step in range(3):
            got = take_step(batch_of_8(step))
            for name, value in expected[step].items():
                np.testing.assert_allclose(float(got[name]), value, rtol=5e-6, atol=2e-6, err_msg=f"{parts} {name}")
        assert int(model.optimizer.iterations) == int(model.step) == 3
        for one, other in zip(model.weights, whole.weights, strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=2e-6, err_msg=one.path)


IN_TWO_PARTS = CASES[0], ("mulsupcon", {})  # one with a distribution and one without


@EACH
def test_a_batch_in_parts_gives_the_steps_of_the_undivided_batch(case):
    assert_parts_give_the_steps_of_the_whole(case, (2, 4) if case in IN_TWO_PARTS else (4,), compiled=case == CASES[0])


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in IN_TWO_PARTS], ids=name_of)
def test_so_does_a_batch_in_two_parts_by_every_method(case):
    assert_parts_give_the_steps_of_the_whole(case, (2,))


@pytest.mark.parametrize("case", ["cld", AlignAndSpread(temperature=0.3)], ids=["cld", "a method of one's own"])
def test_so_it_does_beside_binary_cross_entropy_and_with_a_method_of_ones_own(case):
    assert_parts_give_the_steps_of_the_whole(case, bce_weight=0.5, contrastive_weight=StepSchedule(1))


@pytest.mark.parametrize("bce_weight", [0.0, 0.5])
def test_regularisers_and_losses_of_the_networks_add_to_the_loss(bce_weight):
    plain, model = (without_normalisation("cld", 1, penalties=each, bce_weight=bce_weight) for each in (False, True))
    (views, labels), losses = batch_of_8(0), {}
    for each in (plain, model):
        losses[each] = losses_of(each, (views, labels))
    kernel = model.backbone.layers[1].kernel.numpy()
    embeddings = model.projection_head(model.backbone(views[0])).numpy()
    expected = 0.3 * np.square(kernel).sum() + np.square(embeddings).mean() / 2  # the bias is 0 at the start
    assert expected > 1
    assert float(losses[model]["loss"] - losses[plain]["loss"]) == pytest.approx(expected, rel=1e-4)
    assert float(losses[model]["contrastive_loss"]) == float(losses[plain]["contrastive_loss"])
    more = gradients_of(model, (views, labels), variables=[model.backbone.layers[1].kernel])[0]
    assert (
        np.abs(more - gradients_of(plain, (views, labels), variables=[plain.backbone.layers[1].kernel])[0]).max() > 0.1
    )
    before = float(model.test_step((views, labels))["loss"])
    assert before == pytest.approx(float(losses[model]["loss"]), rel=1e-5)


@pytest.mark.parametrize("settings", [{}, {"bce_weight": 0.5}], ids=["alone", "beside binary cross-entropy"])
def test_parts_add_a_penalty_once(settings):
    assert_parts_give_the_steps_of_the_whole("cld", compiled=True, penalties=True, **settings)


@pytest.mark.parametrize("bce_weight", [0.0, 0.5])
def test_without_penalties_the_graph_of_a_step_is_what_it_was(bce_weight, monkeypatch):
    graphs = []
    for found in (pretrainer_module.penalties, lambda networks: []):
        monkeypatch.setattr(pretrainer_module, "penalties", found)
        keras.utils.clear_session()
        model = pretrainer("cld", bce_weight=bce_weight)
        model.optimizer.build(model.trainable_variables)
        graph = tf.function(model.train_step, autograph=False).get_concrete_function(batch()).graph
        graphs.append([(operation.type, len(operation.inputs)) for operation in graph.get_operations()])
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_the_second_pass_of_a_part_is_the_first_again(compiled):
    """Statistics of normalisation move once, and dropout draws what it drew when the queued distributions were made."""
    model, twin = pretrainer("cld", dropout=0.5, gradient_accumulation_steps=4), pretrainer("cld", dropout=0.5)
    views, labels = batch_of_8(0)
    (tf.function(model.train_step, autograph=False) if compiled else model.train_step)((views, labels))
    made = [twin.encode_queries(views[0][first : first + 2]).distributions for first in range(0, 8, 2)]
    np.testing.assert_allclose(model.queue.distributions.numpy()[:8], np.concatenate(made), rtol=1e-5, atol=1e-6)
    states = [[v for v in each.backbone.variables if not v.trainable] for each in (model, twin)]
    assert {v.name for v in states[0]} == {"moving_mean", "moving_variance", "seed_generator_state"}
    for variable, other in zip(*states, strict=True):
        np.testing.assert_allclose(variable.numpy(), other.numpy(), rtol=1e-5, atol=1e-6, err_msg=variable.name)
    again = twin.encode_queries(views[0][:2]).distributions
    assert np.abs(again - made[0]).max() > 1e-2  # it does draw


def test_a_batch_without_labels_in_parts_changes_nothing_but_the_queue():
    model = without_normalisation(CLD(beta=0.0), 4, optimizer=KernelSGD(0.1))
    before = [variable.numpy() for variable in model.trainable_variables]
    assert float(model.train_step(batch_of_8(0, unlabelled=range(8)))["loss"]) == 0
    for old, variable in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    assert int(model.queue.fill) == 12


def test_under_float16_the_parts_share_one_loss_scale():
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    whole, parted = (
        without_normalisation("rld", parts, optimizer=with_loss_scale(KernelSGD(0.02))) for parts in (1, 4)
    )
    assert parted.optimizer.scale_loss(1.0) == 64
    for step in range(3):
        for model in (whole, parted):
            model.train_step(batch_of_8(step))
    assert int(parted.optimizer.inner_optimizer.iterations) > 0
    for one, other in zip(parted.weights, whole.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=2e-3, err_msg=one.path)


def test_parts_are_turns_of_one_loop_and_not_copies_of_the_graph():
    sizes = []
    for parts in (2, 4):
        model = pretrainer("cld", dropout=0.3, gradient_accumulation_steps=parts)
        model.optimizer.build(model.trainable_variables)
        graph = tf.function(model.train_step, autograph=False).get_concrete_function(batch_of_8(0)).graph.as_graph_def()
        sizes.append(len(graph.node) + sum(len(function.node_def) for function in graph.library.function))
    assert sizes[0] == sizes[1]


def test_a_model_in_parts_fits_and_is_saved(tmp_path):
    model = pretrainer("cld", dropout=0.3, gradient_accumulation_steps=4)
    model.fit(toy_stream(tiny_vectors(FEATURES), 16), steps_per_epoch=4, verbose=0)
    assert int(model.optimizer.iterations) == 4
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").num_parts == 4


HALVES = ("mixed_bfloat16", "mixed_float16")


@pytest.mark.parametrize(
    ("case", "policy", "parts"),
    [
        (("cld", {}), "float32", 2),
        *(pytest.param(case, "float32", parts, marks=pytest.mark.slow) for case in CASES for parts in (1, 2)),
        *(
            pytest.param((name, {}), policy, parts, marks=pytest.mark.slow)
            for name in METHODS
            for policy in HALVES
            for parts in (1, 2)
        ),
    ],
)
def test_under_xla_a_step_is_what_it_is_without(case, policy, parts, monkeypatch):
    """With a bad batch and a queue of several blocks."""
    keras.mixed_precision.set_dtype_policy(policy)
    monkeypatch.setattr(key_queue, "BLOCK", 5)
    monkeypatch.setattr(key_queue, "memory_of_gpu", lambda: None)
    plain, compiled = (
        pretrainer(case, gradient_accumulation_steps=parts, queue_size=13, optimizer=optimizer_of(policy))
        for _ in range(2)
    )
    compiled.set_weights(plain.get_weights())
    # Both as graphs; Keras compiles by XLA wherever there is a GPU.
    steps = [
        tf.function(model.train_step, autograph=False, jit_compile=xla)
        for model, xla in ((plain, False), (compiled, True))
    ]
    close = {"rel": 1e-4, "abs": 1e-5} if policy == "float32" else {"rel": 0.1, "abs": 0.05}
    for number in range(5):
        (query_view, key_view), labels = batch_of_8(number)
        labels = (
            tf.math.divide_no_nan(labels, tf.reduce_sum(labels, 1, keepdims=True)) if case[0] == "truth" else labels
        )
        if number == 3:
            query_view = tf.where(tf.range(8)[:, None] == 2, np.nan, query_view)
        expected, got = (step(((query_view, key_view), labels)) for step in steps)
        for name, value in expected.items():
            assert float(got[name]) == pytest.approx(float(value), **close), (number, name)
    assert [int(model.bad_steps) for model in (plain, compiled)] == [1, 1]
    assert [int(model.step.value) for model in (plain, compiled)] == [4, 4]
    np.testing.assert_array_equal(compiled.queue.labels.numpy(), plain.queue.labels.numpy())
    if policy == "float32":
        for one, other in zip(compiled.get_weights(), plain.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def optimizer_of(policy):
    # Not Adam: it makes large steps of the rounding that is the gradient of a bias before normalisation.
    optimizer = KernelSGD(1e-2, weight_decay=1e-2)
    return (
        keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0) if policy == "mixed_float16" else optimizer
    )


def test_a_batch_that_cannot_be_cut_into_parts_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="A batch must be a multiple of its 3 parts"):
        without_normalisation("cld", 3).train_step(batch_of_8(0))
    message = r"^gradient_accumulation_steps must be at least 1\. Received: gradient_accumulation_steps=0$"
    with pytest.raises(InputError, match=message):
        without_normalisation("cld", 0)


# The queue


@pytest.mark.parametrize("method", ["cld", "truth", "mulsupcon"])
def test_a_key_is_queued_with_the_distribution_that_the_query_side_gave_it(method):
    """After the loss, as the old encoders gave them; the true distribution where the method takes these."""
    model = pretrainer(method, queue_size=10)
    for step, known in enumerate((0, BATCH, 10)):
        (query_view, key_view), labels = batch_for((method, {}), step)
        keys, made = model.encode_keys(key_view), model.encode_queries(query_view).distributions
        position = int(model.queue.position)
        got = model.train_step(((query_view, key_view), labels))
        model.reset_metrics()
        assert float(got["log_num_keys"]) == pytest.approx(math.log(BATCH + known))
        slots = (position + np.arange(BATCH)) % 10
        np.testing.assert_allclose(model.queue.keys.numpy()[slots], keys, atol=1e-5)
        np.testing.assert_array_equal(model.queue.labels.numpy()[slots], np.asarray(labels) > 0)
        if method == "mulsupcon":
            assert model.queue.distributions is None
        else:
            made = labels if method == "truth" else made
            np.testing.assert_allclose(model.queue.distributions.numpy()[slots], made, rtol=1e-5, atol=1e-6)
        assert int(model.step) == step + 1


@pytest.mark.parametrize("side", [0, 1], ids=["query view", "key view"])
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("method", ["cld", "mulsupcon"])
def test_a_batch_that_is_not_finite_leaves_no_trace(method, parts, side):
    model = pretrainer(method, dropout=0.3, gradient_accumulation_steps=parts)
    model.train_step(batch_of_8(0))
    counters = {
        id(variable) for variable in (model.bad_steps, model.bad_steps_in_row, *model._bad_steps_of_epoch.variables)
    }
    kept = [v for v in [*model.variables, *model.optimizer.variables] if id(v) not in counters]
    before = [variable.numpy() for variable in kept]
    views, labels = batch_of_8(1)
    spoilt = views[side].numpy()
    spoilt[3, 2] = np.nan
    views = [spoilt if number == side else view for number, view in enumerate(views)]
    model.train_step((tuple(map(tf.constant, views)), labels))
    assert int(model.bad_steps) == 1
    assert {"seed_generator_state", "moving_mean", "keys", "position"} <= {variable.name for variable in kept}
    for old, variable in zip(before, kept, strict=True):
        np.testing.assert_array_equal(old, variable.numpy(), err_msg=variable.path)
    model.reset_metrics()
    assert math.isfinite(float(model.train_step(batch_of_8(2))["loss"]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_keys_that_are_not_finite_do_not_enter_the_queue(bad):
    # whose loss scaling leaves the weights alone on such a step
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    model = pretrainer(optimizer=with_loss_scale(KernelAdamW(1e-2)))
    model.train_step(batch(0))
    queued = [variable.numpy() for variable in model.queue.weights]
    (query_view, key_view), labels = batch(1)
    key_view = key_view.numpy()
    key_view[3, 2] = bad
    model.train_step(((query_view, tf.constant(key_view)), labels))
    for before, variable in zip(queued, model.queue.weights, strict=True):
        np.testing.assert_array_equal(before, variable.numpy())
    model.reset_metrics()
    assert math.isfinite(float(model.train_step(batch(2))["loss"]))
    assert int(model.queue.fill) == 11


# As a Keras model


def toy_stream(dataset, batch_size, seed=0):
    """Endless pairs of noisy views."""
    split = dataset.splits["train"]
    inputs = ((split.inputs - split.inputs.mean(0)) / split.inputs.std(0)).astype(np.float32)
    samples = tf.data.Dataset.from_tensor_slices((inputs, split.labels.astype(np.float32)))
    samples = samples.repeat().shuffle(64, seed=seed).batch(batch_size, drop_remainder=True)
    noise = iter(range(10**6))

    def views(x, y):
        one, other = (x + 0.2 * tf.random.stateless_normal(tf.shape(x), [next(noise), seed]) for _ in range(2))
        return (one, other), y

    return samples.map(views)


@pytest.mark.parametrize(
    "method",
    [
        "cld",
        pytest.param("self", marks=pytest.mark.slow),
        pytest.param(AlignAndSpread(), marks=pytest.mark.slow),
        keys_within,
    ],
    ids=["cld", "self", "own method", "own function"],
)
def test_fit_evaluate_and_predict_work_as_a_keras_user_expects(method):
    model = pretrainer(method_of(method) if isinstance(method, str) else method)
    dataset = toy_stream(tiny_vectors(FEATURES), 16)
    history = model.fit(dataset, steps_per_epoch=6, epochs=2, verbose=0).history
    assert int(model.step) == 12
    assert all(len(values) == 2 and np.isfinite(values).all() for values in history.values())
    assert {"loss", "contrastive_loss", "embedding_std", "key_momentum"} <= set(history)
    before = model.get_weights()
    judged = model.evaluate(dataset, steps=3, return_dict=True, verbose=0)
    assert judged.keys() == history.keys()
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    outputs = model.predict(tiny_vectors(FEATURES).splits["test"].inputs, verbose=0)
    widths = {name: rows.shape[1] for name, rows in outputs.items() if len(rows) == 24}
    expected = {"features": 8, "embedding": DIMENSIONS}
    assert widths == (expected | {"distribution": LABELS} if method == "cld" else expected)
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1, rtol=1e-5)
    if method == "cld":
        np.testing.assert_allclose(outputs["distribution"].sum(1), 1, rtol=1e-5)


SAVED = {
    "cld": CLD(cld_kernel="negative", alpha=0.7, beta=0.02, own_distribution="live", temperature=0.2),
    "rld": build_method("rld", rbf_sigma=0.3),
    "the truth": build_method("truth"),
    "jaccard": "jaccard",
    "an own method": AlignAndSpread(temperature=0.2),
    "an own function": keys_within,
}


@pytest.mark.parametrize("method", SAVED.values(), ids=SAVED)
def test_a_saved_model_has_every_weight_and_goes_on_identically(tmp_path, method):
    # without dropout, whose seeds Keras does not save; those of a run are in its checkpoints. The contrastive loss joins
    # only once the model has been loaded.
    schedules = {"momentum": MomentumRamp(0.99), "contrastive_weight": StepSchedule(4)}
    model = pretrainer(build_method(method), bce_weight=0.2, **schedules)
    for step in range(3):
        model.train_step(batch(step))
    model.save(tmp_path / "model.keras")
    twin = keras.models.load_model(tmp_path / "model.keras")
    assert (int(twin.queue.fill), twin.name) == (11, model.name)
    assert (type(twin.method), vars(twin.method)) == (type(model.method), vars(model.method))
    for step in range(3, 6):
        for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        for each in (model, twin):
            each.reset_metrics()
            each.train_step(batch(step))
    assert {v.path for v in twin.trainable_variables} == {v.path for v in model.trainable_variables}
    assert not {id(v) for v in twin.trainable_variables} & {id(v) for v in twin.key_backbone.variables}


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_weights_in_half_precision_are_refused_since_the_key_encoder_would_stand_still(policy):
    keras.mixed_precision.set_dtype_policy(policy)
    with pytest.raises(InputError, match=rf"use the policy mixed_{policy}\. Received: weights in {policy}"):
        pretrainer()


@pytest.mark.parametrize(("policy", "name"), [("mixed_bfloat16", "cld"), ("mixed_float16", "rld")])
def test_under_mixed_precision_it_trains_and_the_losses_are_float32(policy, name):
    keras.mixed_precision.set_dtype_policy(policy)
    case = name, {"alpha": 0.7} | ({"rbf_sigma": 0.3} if name == "rld" else {})
    model = pretrainer(case)
    assert model.backbone(batch()[0][0]).dtype == policy.removeprefix("mixed_")
    queued = fill(model, 4)
    expected = naive_losses(model, case, batch(), queued)
    parts = losses_of(model, batch())
    assert {part.dtype for part in parts.values()} == {tf.float32}
    for part, value in expected.items():
        np.testing.assert_allclose(float(parts[part]), value, rtol=1e-4, err_msg=part)
    before = [variable.numpy() for variable in model.trainable_variables]
    step = tf.function(model.train_step, autograph=False)
    for number in range(6):
        model.reset_metrics()
        assert math.isfinite(float(step(batch(number))["loss"]))
    for old, variable in zip(before, model.trainable_variables, strict=True):
        assert np.isfinite(variable.numpy()).all()
        assert np.abs(variable.numpy() - old).max() > 1e-4, variable.path


# Of those that differ in which keys are positive alone, one.
@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=pytest.mark.slow if name in ("any", "all") else ()) for name in METHODS],
)
def test_a_step_is_one_graph_without_the_host(method):
    model = pretrainer(method, bce_weight=0.1, momentum=MomentumRamp(0.99))
    model.optimizer.build(model.trainable_variables)
    step = tf.function(model.train_step, autograph=False)
    graph = step.get_concrete_function(batch()).graph.as_graph_def()
    operations = {node.op for node in graph.node} | {node.op for f in graph.library.function for node in f.node_def}
    assert "ResourceScatterUpdate" in operations
    assert not {name for name in operations if "PyFunc" in name or name in ("PrintV2", "StringFormat", "NumpyFunction")}
    assert step.experimental_get_tracing_count() == 1
    step(batch(1))
    assert step.experimental_get_tracing_count() == 1


def test_raw_input_reaches_the_backbone_whole_under_mixed_precision():
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    samples = np.random.default_rng(0).normal(size=(20, FEATURES)).astype(np.float32)
    large = samples * 1e4 + 1e6  # beyond float16
    inputs = keras.Input((FEATURES,))
    scaled = keras.layers.Normalization(mean=[1e6] * FEATURES, variance=[1e8] * FEATURES, dtype="float32")(inputs)
    features = keras.Input((FEATURES,))
    head = keras.Model(features, keras.layers.Identity()(features))
    model = ContrastivePretrainer(keras.Model(inputs, scaled), head, LABELS)
    expected = samples / np.linalg.norm(samples, axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict(large, verbose=0)["embedding"], expected, atol=2e-3)


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match=r"^method must be one of cld, .*\. Received: method=cdl$"):
        ContrastivePretrainer(*networks(), LABELS, method="cdl")


# Learning


def easy_problem(count, seed):
    """Views `[2, N, F]` and labels: a feature for each label, and three times as many that say nothing."""
    rng = np.random.default_rng(seed)
    labels = np.maximum(np.eye(LABELS)[rng.integers(LABELS, size=count)], rng.random((count, LABELS)) < 0.15)
    samples = np.concatenate([labels, rng.normal(size=(count, 3 * LABELS))], axis=1)
    return (samples + 0.2 * rng.normal(size=(2, *samples.shape))).astype(np.float32), labels.astype(np.float32)


def togetherness(embeddings, labels):
    """Mean cosine of samples with the same labels minus that of samples that share none; share of right neighbours."""
    cosines, shared, count = embeddings @ embeddings.T, labels @ labels.T, labels.sum(1)
    same = (shared == count) & (shared == count[:, None]) & ~np.eye(len(labels), dtype=bool)
    nearest = (cosines - 2 * np.eye(len(labels))).argmax(1)
    return cosines[same].mean() - cosines[shared == 0].mean(), (shared[np.arange(len(labels)), nearest] > 0).mean()


@pytest.mark.parametrize(
    ("case", "steps", "least_gap", "least_mass"),
    [
        pytest.param(("cld", {"cld_kernel": "softmax"}), 200, 0.5, 0.7, marks=pytest.mark.slow),
        (("rld", {}), 200, 0.5, 0.7),
        # This kernel draws the distributions of all samples together, and their mass stays where it was.
        (("cld", {"cld_kernel": "negative"}), 400, 0.3, 0.3),
    ],
)
def test_it_learns_that_samples_with_the_same_label_belong_together(case, steps, least_gap, least_mass):
    views, labels = easy_problem(512, seed=1)
    (samples, _), test_labels = easy_problem(200, seed=2)
    keras.utils.set_random_seed(0)
    inputs, features = keras.Input((views.shape[-1],)), keras.Input((32,))
    hidden = keras.layers.BatchNormalization(momentum=0.9)(keras.layers.Dense(32, activation="relu")(inputs))
    head = keras.Model(features, keras.layers.Dense(8)(features))
    backbone, settings = keras.Model(inputs, hidden), {"queue_size": 64, "momentum": 0.99}
    model = ContrastivePretrainer(backbone, head, LABELS, method=method_of(case), **settings)
    model.compile(optimizer=KernelAdamW(3e-3))
    step, rng = tf.function(model.train_step, autograph=False), np.random.default_rng(3)
    gap, neighbours = togetherness(np.asarray(model(samples)["embedding"]), test_labels)
    assert gap < 0.1
    assert neighbours < 0.8
    losses = []
    for _ in range(steps):
        rows = rng.integers(len(labels), size=32)
        model.reset_metrics()
        got = step(((tf.constant(views[0][rows]), tf.constant(views[1][rows])), tf.constant(labels[rows])))
        losses.append(float(got["contrastive_loss"]) / float(got["positives"]) - float(got["log_num_keys"]))
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.5
    outputs = {name: np.asarray(rows) for name, rows in model(samples).items()}
    gap, neighbours = togetherness(outputs["embedding"], test_labels)
    assert gap > least_gap
    assert neighbours > 0.95
    # what it recovers lies on the samples' own labels; at the start a share of |y| / C did, about a third
    assert (outputs["distribution"] * test_labels).sum(1).mean() > least_mass
