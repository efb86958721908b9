import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.models.pretrainer import LABEL_WEIGHING_METHODS, METHODS, ContrastivePretrainer
from mulsupcon_tf.training.optimizers import SGD, AdamW, MomentumRamp, StepSchedule
from tests.helpers import naive_losses as naive
from tests.helpers.tiny_datasets import tiny_vectors

FEATURES, LABELS, BATCH, DIMENSIONS = 6, 4, 7, 5
BN_MOMENTUM, BN_EPSILON = 0.9, 1e-3


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


def pretrainer(method="cld", *, dropout=0.0, seed=0, optimizer=None, random_distributions=True, **settings):
    """A compiled model whose distribution heads, and key encoder, have left their initial values."""
    keras.utils.set_random_seed(seed)
    model = ContrastivePretrainer(
        *networks(dropout), LABELS, method=method, **{"queue_size": 11, "momentum": 0.9, **settings}
    )
    rng = np.random.default_rng(seed)
    for net in (model.key_backbone, model.key_projection_head):
        net.set_weights([weight + 0.1 * rng.random(weight.shape) for weight in net.get_weights()])
    if random_distributions:
        for head in (model.distribution_head, model.key_distribution_head):
            head.set_weights([rng.normal(size=weight.shape) for weight in head.get_weights()])
    model.compile(optimizer=optimizer or AdamW(1e-2, decay=1e-2))
    return model


def batch(seed=0, *, single_label=False, unlabelled=True):
    rng = np.random.default_rng(seed)
    labels = np.zeros((BATCH, LABELS), np.float32) if single_label else (rng.random((BATCH, LABELS)) < 0.4) * 1.0
    labels[np.arange(BATCH), rng.integers(LABELS, size=BATCH)] = 1.0
    if unlabelled:
        labels[2] = 0.0
    views = rng.normal(size=(2, BATCH, FEATURES)).astype(np.float32)
    return (tf.constant(views[0]), tf.constant(views[1])), tf.constant(labels.astype(np.float32))


def fill(model, count, seed=9, single_label=False):
    """Puts `count` keys into the queue and returns them as float64."""
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(count, DIMENSIONS))
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    labels = np.eye(LABELS)[rng.integers(LABELS, size=count)]
    if not single_label:
        labels = np.maximum(labels, rng.random((count, LABELS)) < 0.3)
    distributions = rng.random((count, LABELS))
    distributions /= distributions.sum(1, keepdims=True)
    model.queue.enqueue(*(tf.constant(rows, tf.float32) for rows in (keys, labels, distributions)))
    return keys, labels, distributions


def parts_of(model, data):
    (query_view, key_view), labels = data
    return model.losses_and_diagnostics(query_view, labels, *model.encode_keys(key_view))


def gradients_of(model, data, part="loss", variables=None):
    with tf.GradientTape() as tape:
        loss = parts_of(model, data)[part]
    variables = model.trainable_variables if variables is None else variables
    gradients = tape.gradient(loss, variables)
    return [np.zeros(v.shape) if g is None else np.asarray(g) for g, v in zip(gradients, variables, strict=True)]


def softmax(logits):
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def encoded(backbone, head, distribution_head, view):
    """Representations, unit embeddings and distributions in float64, from the float outputs of the networks."""
    features = backbone(view, training=True)
    embeddings = np.asarray(keras.ops.cast(head(features, training=True), "float32"), np.float64)
    kernel, bias = (np.asarray(weight, np.float64) for weight in distribution_head.weights)
    features = np.asarray(keras.ops.cast(features, "float32"), np.float64)
    return features, embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), softmax(features @ kernel + bias)


def naive_parts(model, data, queued):
    """The losses of DESIGN's equations by the loops of `naive_losses`, on the model's own embeddings."""
    (query_view, key_view), labels = data
    truth = np.asarray(labels, np.float64)
    labels = (truth > 0).astype(float)
    _, queries, distributions = encoded(model.backbone, model.projection_head, model.distribution_head, query_view)
    key_side = (model.key_backbone, model.key_projection_head, model.key_distribution_head)
    _, keys, key_distributions = encoded(*key_side, key_view)
    if model.method == "truth":
        distributions = key_distributions = truth
    keys, key_labels, key_distributions = (
        np.concatenate(pair) for pair in zip((keys, labels, key_distributions), queued, strict=True)
    )
    common = (queries, keys, labels, key_labels)
    positives = {
        "any": lambda: naive.positives_by(naive.share_a_label, labels, key_labels),
        "all": lambda: naive.positives_by(naive.have_the_same_labels, labels, key_labels),
        "jaccard": lambda: naive.positives_by(naive.jaccard_of_at_least(0.5), labels, key_labels),
        "self": lambda: np.eye(len(queries), len(keys)),
    }
    if model.method in positives:
        contrastive = naive.supervised_contrastive(
            queries, keys, positives[model.method](), temperature=model.temperature
        )
        return {"contrastive_loss": contrastive, "loss": contrastive}
    rho = {"mulsupcon": 0.0, "truth": 1.0}.get(model.method, model.rho)
    weights = naive.label_weights(distributions, labels, rho)
    key_weights = naive.label_weights(key_distributions, key_labels, rho) if model.weigh_keys else None
    how = {"temperature": model.temperature, "key_weights": key_weights}
    contrastive = naive.weighted_contrastive(*common, weights, **how)
    if model.affinity_power:
        affinities = naive.affinities(
            weights, naive.label_weights(key_distributions, key_labels, rho), model.affinity_power
        )
        contrastive = naive.supervised_contrastive(queries, keys, affinities, temperature=model.temperature)
    if model.average == "pair":
        contrastive = np.mean(list(naive.pair_losses(*common, **how).values()))
    if model.method in ("mulsupcon", "truth"):
        return {"contrastive_loss": contrastive, "loss": contrastive}
    pairs = (distributions, key_distributions, labels, key_labels)
    if model.method == "cld":
        similarity = naive.contrastive_similarity(*pairs, temperature=model.temperature_d)
    else:
        similarity = naive.rbf_similarity(*pairs, queries=queries, keys=keys, sigma=model.rbf_sigma)
    alignment = naive.alignment(distributions, labels)
    penalty = (np.asarray(model.distribution_head.weights[0], np.float64) ** 2).sum()
    recovery = similarity + model.alpha * alignment + model.beta * penalty
    return {
        "contrastive_loss": contrastive, "similarity_loss": similarity, "alignment_loss": alignment,
        "recovery_loss": recovery, "loss": contrastive + model.gamma * recovery,
    }  # fmt: skip


WEIGHTS = {"alpha": 0.7, "beta": 0.02, "gamma": 1.3, "rho": 0.6}
SETTINGS = WEIGHTS | {"temperature": 0.2, "temperature_d": 0.4, "rbf_sigma": 0.3}


# The loss


@pytest.mark.parametrize(("method", "settings"), [
    *((method, {}) for method in METHODS),
    *((method, {"weigh_keys": True}) for method in LABEL_WEIGHING_METHODS),
    *((method, {"affinity_power": 3.0}) for method in LABEL_WEIGHING_METHODS),
    ("mulsupcon", {"average": "pair"}),
    ("mulsupcon", {"average": "pair", "weigh_keys": True}),
])  # fmt: skip
def test_the_loss_of_a_step_is_the_naive_loop(method, settings):
    model = pretrainer(method, **SETTINGS, **settings)
    queued = fill(model, 4)
    data = batch()
    if method == "truth":  # as much of a label as is drawn here
        data = data[0], data[1] * np.random.default_rng(2).uniform(0.05, 1.0, data[1].shape).astype(np.float32)
    expected = naive_parts(model, data, queued)
    got = model.train_step(data)
    for name, value in expected.items():
        np.testing.assert_allclose(float(got[name]), value, rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(float(got["log_num_keys"]), math.log(BATCH + 4), rtol=1e-6)


@pytest.mark.parametrize("method", ["cld", "rld"])
def test_the_first_contrastive_loss_is_that_of_mulsupcon(method):
    losses = {}
    for each in (method, "mulsupcon"):
        model = pretrainer(each, random_distributions=False)
        fill(model, 4)
        losses[each] = float(parts_of(model, batch())["contrastive_loss"])
    assert losses[method] == pytest.approx(losses["mulsupcon"], rel=1e-6)


def test_the_truth_about_samples_whose_labels_count_alike_is_mulsupcon():
    losses = {}
    for method in ("truth", "mulsupcon"):
        model = pretrainer(method)
        fill(model, 4)
        losses[method] = float(parts_of(model, batch())["contrastive_loss"])
    assert losses["truth"] == pytest.approx(losses["mulsupcon"], rel=1e-6)


def test_weighed_keys_without_a_share_of_the_distributions_are_those_of_mulsupcon():
    losses = {}
    for method, weigh_keys in (("cld", True), ("rld", True), ("mulsupcon", True), ("mulsupcon", False)):
        model = pretrainer(method, rho=0.0, weigh_keys=weigh_keys)
        fill(model, 4)
        losses[method, weigh_keys] = float(parts_of(model, batch())["contrastive_loss"])
    expected = losses["mulsupcon", True]
    assert losses["cld", True] == pytest.approx(expected, rel=1e-6)
    assert losses["rld", True] == pytest.approx(expected, rel=1e-6)
    assert abs(losses["mulsupcon", False] - expected) > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_an_unfilled_slot_is_never_seen(method):
    clean, dirty = pretrainer(method), pretrainer(method)
    for model in (clean, dirty):
        fill(model, 4)
    rng = np.random.default_rng(1)
    for variable in (dirty.queue.keys, dirty.queue.labels, dirty.queue.distributions):
        rows = variable.numpy()
        rows[4:] = 30 * rng.normal(size=rows[4:].shape) if variable is not dirty.queue.labels else 1
        variable.assign(rows)
    assert float(parts_of(clean, batch())["loss"]) == float(parts_of(dirty, batch())["loss"])
    for one, other in zip(gradients_of(clean, batch()), gradients_of(dirty, batch()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_partly_filled_queue_is_a_full_queue_of_the_same_keys(method):
    partly, full = pretrainer(method, queue_size=11), pretrainer(method, queue_size=4)
    for model in (partly, full):
        fill(model, 4)
    assert float(parts_of(partly, batch())["loss"]) == pytest.approx(float(parts_of(full, batch())["loss"]), rel=1e-6)


def test_with_one_label_a_sample_five_methods_are_supcon():
    losses = []
    weighed = [
        (method, settings)
        for method in LABEL_WEIGHING_METHODS
        for settings in ({"weigh_keys": True}, {"affinity_power": 2.0})
    ]
    for method, settings in [*((method, {}) for method in ("cld", "rld", "mulsupcon", "any", "all")), *weighed]:
        model = pretrainer(method, **settings)
        fill(model, 4, single_label=True)
        losses.append(float(parts_of(model, batch(single_label=True, unlabelled=False))["contrastive_loss"]))
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_labels_does_not_matter(method):
    order = np.array([2, 0, 3, 1])
    model, permuted = pretrainer(method), pretrainer(method)
    for each in (model, permuted):
        fill(each, 4)
    for head in (permuted.distribution_head, permuted.key_distribution_head):
        head.set_weights([weight[..., order] for weight in head.get_weights()])
    for variable in (permuted.queue.labels, permuted.queue.distributions):
        variable.assign(variable.numpy()[:, order])
    views, labels = batch()
    one, other = parts_of(model, (views, labels)), parts_of(permuted, (views, tf.gather(labels, order, axis=1)))
    for name in one:
        assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-5), name


def test_a_batch_without_labels_has_loss_0_and_no_gradient():
    for method in ("cld", "rld", "mulsupcon", "any", "all", "jaccard"):
        views, labels = batch()
        model = pretrainer(method, beta=0.0)
        assert float(parts_of(model, (views, 0 * labels))["loss"]) == 0
        assert all((gradient == 0).all() for gradient in gradients_of(model, (views, 0 * labels)))


@pytest.mark.parametrize("method", ["cld", "rld"])
def test_recovery_gradients_reach_the_encoder_under_flow_and_not_under_stop(method):
    for recovery_gradient, reaches in (("stop", False), ("flow", True)):
        model = pretrainer(method, recovery_gradient=recovery_gradient, rbf_sigma=0.3)
        fill(model, 4)
        encoder = [*model.backbone.trainable_variables, *model.projection_head.trainable_variables]
        largest = max(np.abs(g).max() for g in gradients_of(model, batch(), "recovery_loss", encoder))
        assert (largest > 1e-4) if reaches else (largest == 0)
        head = model.distribution_head.trainable_variables
        assert all(np.abs(g).max() > 1e-4 for g in gradients_of(model, batch(), "recovery_loss", head))
        contrastive = gradients_of(model, batch(), "contrastive_loss", head)
        assert all((gradient == 0).all() for gradient in contrastive)  # label weights carry no gradient


def test_binary_cross_entropy_is_added_with_its_weight():
    model = pretrainer("mulsupcon", bce_weight=0.3)
    queued, data = fill(model, 4), batch()
    features = np.asarray(model.backbone(data[0][0], training=True), np.float64)
    kernel, bias = (np.asarray(weight, np.float64) for weight in model.classification_head.weights)
    probabilities, labels = 1 / (1 + np.exp(-features @ kernel - bias)), np.asarray(data[1])
    cross_entropies = -(labels * np.log(probabilities) + (1 - labels) * np.log(1 - probabilities))
    expected = naive_parts(model, data, queued)["loss"] + 0.3 * cross_entropies.sum(1).mean()
    got = parts_of(model, data)
    np.testing.assert_allclose(float(got["loss"]), expected, rtol=1e-5)
    np.testing.assert_allclose(float(got["bce_loss"]), cross_entropies.mean(), rtol=1e-5)


def test_a_schedule_holds_the_contrastive_and_the_recovery_loss_back():
    model = pretrainer("cld", bce_weight=0.5, contrastive_weight=StepSchedule(2), gamma=1.5)
    for step in range(4):
        parts = parts_of(model, batch(step))
        bce = 0.5 * LABELS * float(parts["bce_loss"])
        joined = float(parts["contrastive_loss"]) + 1.5 * float(parts["recovery_loss"])
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
    keys, distributions = model.encode_keys(view.astype(np.float32))
    np.testing.assert_allclose(
        keys, embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), rtol=1e-3, atol=1e-5
    )
    kernel, bias = (np.asarray(v, np.float64) for v in model.key_distribution_head.weights)
    np.testing.assert_allclose(distributions, softmax(features @ kernel + bias), rtol=1e-3, atol=1e-5)


def weights_by_path(parts):
    """Float64 copies by (which network, path inside it)."""
    named = [(index, weight) for index, part in enumerate(parts) for weight in part.weights]
    return {(index, weight.path.split("/", 1)[-1]): weight.numpy().astype(np.float64) for index, weight in named}


@pytest.mark.parametrize("momentum", [0.9, MomentumRamp(0.999)])
def test_the_key_side_follows_as_a_moving_average_statistics_of_normalisation_too(momentum):
    model = pretrainer(momentum=momentum)
    query = [model.backbone, model.projection_head, model.distribution_head]
    key = [model.key_backbone, model.key_projection_head, model.key_distribution_head]
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


@pytest.mark.parametrize("method", ["cld", "mulsupcon"])
def test_the_key_side_is_never_trained(method):
    model = pretrainer(method)
    model.train_step(batch())
    key_side = [model.key_backbone, model.key_projection_head, model.key_distribution_head, model.queue]
    never = {id(variable) for part in key_side for variable in part.variables}
    trained = {id(variable) for variable in model.trainable_variables}
    assert not trained & never
    expected = [model.backbone, model.projection_head] + ([model.distribution_head] if method == "cld" else [])
    assert trained == {id(variable) for net in expected for variable in net.trainable_variables}
    assert trained  # and the same set is what the optimizer keeps moments of
    assert len(model.optimizer.variables) == 2 + 2 * len(trained)


# Gradient accumulation


def without_normalisation(method, parts, *, seed=0, optimizer=None, **settings):
    """A compiled model each of whose samples is encoded for itself, so that parts give what the whole gives."""
    keras.utils.set_random_seed(seed)
    inputs, features = keras.Input((FEATURES,)), keras.Input((8,))
    backbone = keras.Model(inputs, keras.layers.Dense(8, activation="tanh")(inputs))
    head = keras.Model(features, keras.layers.Dense(DIMENSIONS)(features))
    model = ContrastivePretrainer(
        backbone, head, LABELS, method=method, queue_size=19, momentum=0.9, gradient_accumulation_steps=parts,
        **SETTINGS | settings,
    )  # fmt: skip
    model.compile(optimizer=optimizer or SGD(0.1, decay=0.01))
    fill(model, 4)
    return model


def batch_of_8(seed, unlabelled=(2, 3, 7)):
    """In four parts the second has no label, in two both have."""
    views = np.random.default_rng(seed).normal(size=(2, 8, FEATURES))
    labels = (np.random.default_rng(seed + 50).random((8, LABELS)) < 0.5) * 1.0
    labels[:, seed % LABELS] = 1.0
    labels[list(unlabelled)] = 0.0
    return tuple(tf.constant(view, tf.float32) for view in views), tf.constant(labels, tf.float32)


@pytest.mark.parametrize(("method", "settings"), [
    *((method, {}) for method in METHODS),
    ("mulsupcon", {"average": "pair"}),
    ("cld", {"recovery_gradient": "flow", "bce_weight": 0.5, "contrastive_weight": StepSchedule(1)}),
])  # fmt: skip
def test_a_batch_in_parts_gives_the_steps_of_the_undivided_batch(method, settings):
    whole = without_normalisation(method, 1, **settings)
    expected = [{name: float(value) for name, value in whole.train_step(batch_of_8(step)).items()} for step in range(3)]
    for parts in (2, 4):
        model = without_normalisation(method, parts, **settings)
        take_step = tf.function(model.train_step) if parts == 4 and method == "self" else model.train_step
        for step in range(3):
            got = take_step(batch_of_8(step))
            for name, value in expected[step].items():
                np.testing.assert_allclose(float(got[name]), value, rtol=2e-6, atol=1e-6, err_msg=f"{parts} {name}")
        assert int(model.optimizer.iterations) == int(model.step) == 3
        for one, other in zip(model.weights, whole.weights, strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-6, err_msg=one.path)


def test_a_batch_without_labels_in_parts_changes_nothing_but_the_queue():
    model = without_normalisation("cld", 4, beta=0.0, optimizer=SGD(0.1))
    before = [variable.numpy() for variable in model.trainable_variables]
    assert float(model.train_step(batch_of_8(0, unlabelled=range(8)))["loss"]) == 0
    for old, variable in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())
    assert int(model.queue.fill) == 12


def test_under_float16_the_parts_share_one_loss_scale():
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    whole, parted = (without_normalisation("rld", parts) for parts in (1, 4))
    assert isinstance(parted.optimizer, keras.optimizers.LossScaleOptimizer)
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
        graph = tf.function(model.train_step).get_concrete_function(batch_of_8(0)).graph.as_graph_def()
        sizes.append(len(graph.node) + sum(len(function.node_def) for function in graph.library.function))
    assert sizes[0] == sizes[1]


def test_a_model_in_parts_fits_and_is_saved(tmp_path):
    model = pretrainer("cld", dropout=0.3, gradient_accumulation_steps=4)
    model.fit(toy_stream(tiny_vectors(FEATURES), 16), steps_per_epoch=4, verbose=0)
    assert int(model.optimizer.iterations) == 4
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").num_parts == 4


@pytest.mark.parametrize("parts", [1, 4])
def test_under_xla_a_step_is_what_it_is_without(parts):
    # Keras compiles by XLA wherever there is a GPU.
    plain, compiled = (pretrainer("cld", gradient_accumulation_steps=parts, queue_size=11) for _ in range(2))
    compiled.set_weights(plain.get_weights())
    steps = tf.function(plain.train_step), tf.function(compiled.train_step, jit_compile=True)
    for number in range(3):
        expected, got = (step(batch_of_8(number)) for step in steps)
        for name, value in expected.items():
            assert float(got[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    np.testing.assert_array_equal(compiled.queue.labels.numpy(), plain.queue.labels.numpy())


def test_a_batch_that_cannot_be_cut_into_parts_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="A batch must be a multiple of its 3 parts"):
        without_normalisation("cld", 3).train_step(batch_of_8(0))
    with pytest.raises(ValueError, match=r"`gradient_accumulation_steps` must be at least 1\. Received: 0"):
        without_normalisation("cld", 0)


# The queue


def test_keys_are_enqueued_after_the_loss_as_the_old_key_encoder_gave_them():
    model = pretrainer(queue_size=10)
    for step, known in enumerate((0, BATCH, 10)):
        (_, key_view), labels = batch(step)
        keys, distributions = (np.asarray(rows) for rows in model.encode_keys(key_view))
        position = int(model.queue.position)
        got = model.train_step(batch(step))
        model.reset_metrics()
        assert float(got["log_num_keys"]) == pytest.approx(math.log(BATCH + known))
        slots = (position + np.arange(BATCH)) % 10
        np.testing.assert_allclose(model.queue.keys.numpy()[slots], keys, atol=1e-5)
        np.testing.assert_array_equal(model.queue.labels.numpy()[slots], labels)
        np.testing.assert_allclose(model.queue.distributions.numpy()[slots], distributions, rtol=2**-10, atol=1e-5)
        assert int(model.step) == step + 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_keys_that_are_not_finite_do_not_enter_the_queue(bad):
    keras.mixed_precision.set_dtype_policy(
        "mixed_float16"
    )  # whose loss scaling leaves the weights alone on such a step
    model = pretrainer()
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


@pytest.mark.parametrize("method", ["cld", "self"])
def test_fit_evaluate_and_predict_work_as_a_keras_user_expects(method):
    model = pretrainer(method)
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
    assert widths == {"features": 8, "embedding": DIMENSIONS, "distribution": LABELS}
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(outputs["distribution"].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("keys", [{"weigh_keys": True}, {"affinity_power": 4.0}])
def test_a_saved_model_has_every_weight_and_goes_on_identically(tmp_path, keys):
    # without dropout, whose seeds Keras does not save; those of a run are in its checkpoints
    schedules = {"momentum": MomentumRamp(0.99), "contrastive_weight": StepSchedule(1)}
    model = pretrainer("cld", bce_weight=0.2, **keys, **schedules, **SETTINGS)
    for step in range(3):
        model.train_step(batch(step))
    model.save(tmp_path / "model.keras")
    twin = keras.models.load_model(tmp_path / "model.keras")
    assert (int(twin.queue.fill), twin.name) == (11, model.name)
    for step in range(3, 6):
        for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        for each in (model, twin):
            each.reset_metrics()
            each.train_step(batch(step))
    assert {v.path for v in twin.trainable_variables} == {v.path for v in model.trainable_variables}
    assert not {id(v) for v in twin.trainable_variables} & {id(v) for v in twin.key_backbone.variables}


@pytest.mark.parametrize(("policy", "method"), [("mixed_bfloat16", "cld"), ("mixed_float16", "rld")])
def test_under_mixed_precision_it_trains_and_the_losses_are_float32(policy, method):
    keras.mixed_precision.set_dtype_policy(policy)
    model = pretrainer(method, **SETTINGS | {"temperature": 0.01})
    assert model.backbone(batch()[0][0]).dtype == policy.removeprefix("mixed_")
    queued = fill(model, 4)
    expected = naive_parts(model, batch(), queued)
    parts = parts_of(model, batch())
    assert {part.dtype for part in parts.values()} == {tf.float32}
    for name, value in expected.items():
        np.testing.assert_allclose(float(parts[name]), value, rtol=1e-4, err_msg=name)
    before = [variable.numpy() for variable in model.trainable_variables]
    step = tf.function(model.train_step)
    for number in range(6):
        model.reset_metrics()
        assert math.isfinite(float(step(batch(number))["loss"]))
    for old, variable in zip(before, model.trainable_variables, strict=True):
        assert np.isfinite(variable.numpy()).all()
        assert np.abs(variable.numpy() - old).max() > 1e-4, variable.path


@pytest.mark.parametrize("method", ["cld", "rld", "jaccard", "self"])
def test_a_step_is_one_graph_without_the_host(method):
    model = pretrainer(method, bce_weight=0.1, momentum=MomentumRamp(0.99))
    model.optimizer.build(model.trainable_variables)
    step = tf.function(model.train_step)
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
    with pytest.raises(ValueError, match=r"`method` must be one of cld, .*Received: method='cdl'"):
        ContrastivePretrainer(*networks(), LABELS, method="cdl")


def test_weighed_keys_are_refused_by_a_method_that_weights_no_labels():
    message = r"`weigh_keys` needs a `method` among cld, rld, mulsupcon, truth\. Received: method='any'"
    with pytest.raises(ValueError, match=message):
        ContrastivePretrainer(*networks(), LABELS, method="any", weigh_keys=True)


@pytest.mark.parametrize(
    "settings", [{"method": "all"}, {"weigh_keys": True}, {"method": "mulsupcon", "average": "pair"}]
)
def test_affinities_are_refused_where_they_have_no_meaning(settings):
    message = r"`affinity_power` needs a `method` among cld, rld, mulsupcon, truth, without `weigh_keys` and pairs\."
    with pytest.raises(ValueError, match=message):
        ContrastivePretrainer(*networks(), LABELS, affinity_power=2.0, **settings)


# Learning


def easy_problem(count, seed):
    """Views `[2, N, F]` and labels: a feature for each label, and three times as many that say nothing."""
    rng = np.random.default_rng(seed)
    labels = np.maximum(np.eye(LABELS)[rng.integers(LABELS, size=count)], rng.random((count, LABELS)) < 0.15)
    samples = np.concatenate([labels, rng.normal(size=(count, 3 * LABELS))], axis=1)
    return (samples + 0.2 * rng.normal(size=(2, *samples.shape))).astype(np.float32), labels.astype(np.float32)


def togetherness(embeddings, labels):
    """Mean cosine of samples with the same labels less that of samples that share none; share of right neighbours."""
    cosines, shared, count = embeddings @ embeddings.T, labels @ labels.T, labels.sum(1)
    same = (shared == count) & (shared == count[:, None]) & ~np.eye(len(labels), dtype=bool)
    nearest = (cosines - 2 * np.eye(len(labels))).argmax(1)
    return cosines[same].mean() - cosines[shared == 0].mean(), (shared[np.arange(len(labels)), nearest] > 0).mean()


@pytest.mark.parametrize("method", ["cld", "rld"])
def test_it_learns_that_samples_with_the_same_label_belong_together(method):
    views, labels = easy_problem(512, seed=1)
    (samples, _), test_labels = easy_problem(200, seed=2)
    keras.utils.set_random_seed(0)
    inputs, features = keras.Input((views.shape[-1],)), keras.Input((32,))
    hidden = keras.layers.BatchNormalization(momentum=0.9)(keras.layers.Dense(32, activation="relu")(inputs))
    head = keras.Model(features, keras.layers.Dense(8)(features))
    backbone, settings = keras.Model(inputs, hidden), {"queue_size": 64, "momentum": 0.99, "temperature": 0.2}
    model = ContrastivePretrainer(backbone, head, LABELS, method=method, **settings)
    model.compile(optimizer=AdamW(3e-3))
    step, rng = tf.function(model.train_step), np.random.default_rng(3)
    gap, neighbours = togetherness(np.asarray(model(samples)["embedding"]), test_labels)
    assert gap < 0.1
    assert neighbours < 0.8
    losses = []
    for _ in range(200):
        rows = rng.integers(len(labels), size=32)
        model.reset_metrics()
        got = step(((tf.constant(views[0][rows]), tf.constant(views[1][rows])), tf.constant(labels[rows])))
        losses.append(float(got["contrastive_loss"]) - float(got["log_num_keys"]))
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.5
    outputs = {name: np.asarray(rows) for name, rows in model(samples).items()}
    gap, neighbours = togetherness(outputs["embedding"], test_labels)
    assert gap > 0.5
    assert neighbours > 0.95
    # what it recovers lies on the samples' own labels; at the start a share of |y| / C did, about a third
    assert (outputs["distribution"] * test_labels).sum(1).mean() > 0.7
