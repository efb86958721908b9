import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.losses.diagnostics import diagnostics
from mulsupcon_tf.models import key_queue
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.models.guarded_model import GuardedModel
from mulsupcon_tf.models.layers import SMALL, BatchNormalization, Dropout
from mulsupcon_tf.models.pretrainer import ContrastivePretrainer
from mulsupcon_tf.optimizers.adamw import KernelAdamW
from mulsupcon_tf.optimizers.schedules import MomentumRamp, StepSchedule, warmup_cosine
from mulsupcon_tf.optimizers.sgd import KernelSGD

FEATURES, WIDTH, LABELS, BATCH = 5, 8, 3, 6
STEPS = 5


@keras.saving.register_keras_serializable(package="tests")
class SteepAt(keras.layers.Layer):
    """Cuts large inputs off; its gradient is infinite where an input exceeds a hundred."""

    def call(self, inputs):
        @tf.custom_gradient
        def identity(x):
            return tf.minimum(x, 5.0), lambda upstream: upstream / tf.cast(tf.reduce_max(x) < 100.0, x.dtype)

        return identity(inputs)


def networks():
    """Normalisation and dropout: state that a forward pass changes."""
    layers = keras.layers
    inputs, features = keras.Input((FEATURES,)), keras.Input((WIDTH,))
    x = layers.BatchNormalization(momentum=0.5)(SteepAt(dtype="float32")(layers.Dense(WIDTH)(inputs)))
    x = layers.Dropout(0.3)(layers.Activation("tanh")(x))
    return keras.Model(inputs, x, name="backbone"), keras.Model(features, layers.Dense(4)(features), name="head")


def pretrainer(**settings):
    keras.utils.set_random_seed(0)
    model = ContrastivePretrainer(
        *networks(), LABELS, **{"method": "cld", "queue_size": 13, "momentum": MomentumRamp(0.9), **settings}
    )
    optimizer = KernelAdamW(1e-2, weight_decay=1e-2)
    if keras.mixed_precision.dtype_policy().compute_dtype == "float16":  # a scale at which no good step overflows
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=256.0)
    model.compile(optimizer=optimizer)
    return model


def classifier(**settings):
    keras.utils.set_random_seed(0)
    model = MultiLabelClassifier(networks()[0], LABELS, **settings)
    model.compile(
        optimizer=KernelAdamW(1e-2, weight_decay=1e-2), loss=keras.losses.BinaryCrossentropy(from_logits=True)
    )
    return model


def batch(model, step, *, view=0, spoil=None):
    """The batch of a step; `spoil` is the value that one number of one view becomes."""
    rng = np.random.default_rng(step)
    views = rng.normal(size=(2, BATCH, FEATURES)).astype(np.float32)
    labels = (rng.random((BATCH, LABELS)) < 0.5).astype(np.float32)
    if spoil is not None:
        views[view, 2, 3] = spoil
    inputs = tuple(map(tf.constant, views)) if isinstance(model, ContrastivePretrainer) else tf.constant(views[0])
    return inputs, tf.constant(labels)


def state_of(model):
    """Everything that training changes, but the counters."""
    counters = {id(model.bad_steps), id(model.bad_steps_in_row)}
    variables = [*model.variables, *model.optimizer.variables]
    return [(variable.path, variable.numpy()) for variable in variables if id(variable) not in counters]


def train(model, steps, bad=(), view=0):
    step = tf.function(model.train_step, autograph=False)
    model.optimizer.build(model.trainable_variables)
    for number in steps:
        if number in bad:
            step(batch(model, number, view=view, spoil=bad[number]))
        else:
            got = step(batch(model, number))
    return {name: float(value) for name, value in got.items()}


def assert_same(one, other, but=()):
    for (path, expected), (_, got) in zip(one, other, strict=True):
        if not path.endswith(but):
            np.testing.assert_array_equal(got, expected, err_msg=path)


# What one number of a sample may become: of the last only the gradient is not finite.
NOT_FINITE = {77: np.nan, 78: np.inf, 79: 1000.0}


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("build", [pretrainer, classifier])
def test_a_run_with_bad_batches_is_the_run_of_the_good_ones(build, policy):
    keras.mixed_precision.set_dtype_policy(policy)
    good, model = build(), build()
    expected = train(good, range(STEPS))
    got = train(model, [0, 1, 77, 2, 78, 79, 3, 4], bad=NOT_FINITE)
    # under float16 the loss scale alone has moved: halved three times, its clock set back
    assert_same(state_of(good), state_of(model), but=("dynamic_scale", "step_counter") if "16" in policy else ())
    assert got == expected | {"bad_steps": expected["bad_steps"] + 3}  # float16 has overflowed at the start
    assert (int(model.bad_steps), int(model.bad_steps_in_row)) == (int(good.bad_steps) + 3, 0)
    if policy == "mixed_float16":
        assert float(model.optimizer.dynamic_scale) == float(good.optimizer.dynamic_scale) / 8
        assert int(model.optimizer.step_counter) == 2


SETTINGS = [
    {"method": "mulsupcon", "view": 1},
    {"method": "self", "view": 1, "contrastive_weight": StepSchedule(99), "bce_weight": 1.0},
    {"method": "rld", "gradient_accumulation_steps": 2},
]


# In half precision, by default, the one whose batch comes in parts.
@pytest.mark.parametrize(
    ("settings", "policy"),
    [
        *((settings, "float32") for settings in SETTINGS),
        *(pytest.param(settings, "mixed_float16", marks=pytest.mark.slow) for settings in SETTINGS[:2]),
        (SETTINGS[2], "mixed_float16"),
    ],
)
def test_a_bad_key_view_or_a_bad_part_is_noticed_too(settings, policy):
    keras.mixed_precision.set_dtype_policy(policy)
    settings, view = {**settings}, settings.get("view", 0)
    settings.pop("view", None)
    good, model = pretrainer(**settings), pretrainer(**settings)
    expected = train(good, range(3))
    got = train(model, [0, 77, 1, 2], bad={77: np.nan}, view=view)
    assert got == expected | {"bad_steps": expected["bad_steps"] + 1}
    assert_same(state_of(good), state_of(model), but=("dynamic_scale", "step_counter"))


def image_pretrainer():
    """Our batch normalisation, and variables that are moved one by one because they are large, beside small ones."""
    keras.utils.set_random_seed(0)
    inputs, features = keras.Input((6, 6, 2)), keras.Input((130,))
    x = keras.layers.Conv2D(3, 3, use_bias=False)(inputs)
    x = keras.layers.ReLU()(BatchNormalization(momentum=0.9)(x))
    x = BatchNormalization(momentum=0.7)(keras.layers.Conv2D(130, 3, use_bias=False)(x))
    backbone = keras.Model(inputs, Dropout(0.3)(keras.layers.GlobalAveragePooling2D()(x)), name="backbone")
    x = keras.layers.BatchNormalization()(keras.layers.Dense(130)(features))
    head = keras.Model(features, keras.layers.Dense(4)(x), name="head")
    model = ContrastivePretrainer(backbone, head, LABELS, queue_size=13, momentum=MomentumRamp(0.9), bce_weight=0.5)
    optimizer = KernelAdamW(1e-2, weight_decay=1e-2)
    if keras.mixed_precision.dtype_policy().compute_dtype == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=256.0, dynamic_growth_steps=5)
    model.compile(optimizer=optimizer)
    model.optimizer.build(model.trainable_variables)
    assert max(np.prod(variable.shape) for variable in model.backbone.variables) < SMALL
    assert max(np.prod(variable.shape) for variable in model.projection_head.variables) > SMALL
    return model


def image_batch(step):
    rng = np.random.default_rng(step)
    views = rng.normal(size=(2, BATCH, 6, 6, 2)).astype(np.float32)
    if step == 4:  # a bad step
        views[0, 2] = np.nan
    labels = (rng.random((BATCH, LABELS)) < 0.5).astype(np.float32)
    return tuple(map(tf.constant, views)), tf.constant(labels)


def plain_step(model, means, data):
    """The step as it is defined: each statistic and weight by itself, and undone by writing back what was read before."""
    (query_view, key_view), labels = data
    before = model.read_forward_state()
    keys = model.encode_keys(key_view)
    with tf.GradientTape() as tape:
        losses, queries, batch = model._losses_of_batch(query_view, keys, labels)
        loss = model.optimizer.scale_loss(losses["loss"])
    gradients = tape.gradient(loss, model.trainable_variables)
    losses |= diagnostics(queries, batch.keys)

    def good():
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        momentum = model.momentum(model.step.value)
        for query, key in ((model.backbone, model.key_backbone), (model.projection_head, model.key_projection_head)):
            for source, target in zip(query.weights, key.weights, strict=True):
                target.assign_sub((1.0 - momentum) * (target.value - source.value))
        model.queue.enqueue(*batch.rows())
        model.step.assign_add(1)
        for name, mean in means.items():
            mean.update_state((losses | {"key_momentum": momentum})[name])

    def bad():
        model.write_forward_state(before)
        if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
            model.optimizer.step_counter.assign(0)
            model.optimizer.dynamic_scale.assign(model.optimizer.dynamic_scale * 0.5)

    finite = [tf.reduce_all(tf.math.is_finite(each)) for each in (*gradients, losses["loss"], *batch.rows())]
    tf.cond(tf.reduce_all(finite), good, bad)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_step_of_few_operations_is_the_plain_one_to_the_last_bit(policy):
    keras.mixed_precision.set_dtype_policy(policy)
    model, plain = image_pretrainer(), image_pretrainer()
    step = tf.function(model.train_step, autograph=False)
    names = model._means.names
    means = {name: keras.metrics.Mean() for name in names}
    step_plainly = tf.function(lambda data: plain_step(plain, means, data), autograph=False)
    for number in range(13):
        got = step(image_batch(number))
        step_plainly(image_batch(number))
    assert (int(model.bad_steps), int(model.step.value)) == (1, 12)
    assert_same(state_of(plain), state_of(model))
    assert {name: float(got[name]) for name in names} == {name: float(mean.result()) for name, mean in means.items()}


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_host_waits_for_the_device_once_a_step_and_once_for_the_queue(policy, monkeypatch):
    """A condition and a loop need their numbers on the host; those in int32 are there. The one condition is the guard."""
    keras.mixed_precision.set_dtype_policy(policy)
    monkeypatch.setattr(key_queue, "BLOCK", 5)  # three blocks
    monkeypatch.setattr(key_queue, "memory_of_gpu", lambda: None)
    model = pretrainer()
    model.optimizer.learning_rate = warmup_cosine(0.1, total_steps=9, warmup_steps=3)
    model.optimizer.build(model.trainable_variables)
    graph = tf.function(model.train_step, autograph=False).get_concrete_function(batch(model, 0)).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    decisions = [node for node in nodes if node.op in ("If", "StatelessIf", "While", "StatelessWhile", "Case")]
    assert sorted(node.op.removeprefix("Stateless") for node in decisions) == ["If", "While"]
    (loop,) = (node for node in decisions if "While" in node.op)
    (ends,) = (each for each in graph.library.function if each.signature.name == loop.attr["cond"].func.name)
    assert {node.attr["T"].type for node in ends.node_def if node.op == "Less"} == {tf.int32.as_datatype_enum}


def test_counters_count_in_a_row_and_in_total():
    model = classifier()
    step = tf.function(model.train_step, autograph=False)
    model.optimizer.build(model.trainable_variables)
    seen = []
    for spoil in (None, np.nan, np.inf, None, np.nan):
        step(batch(model, 0, spoil=spoil))
        seen.append((int(model.bad_steps), int(model.bad_steps_in_row)))
    assert seen == [(0, 0), (1, 1), (2, 2), (2, 0), (3, 1)]


def test_an_overflow_of_float16_counts_in_a_row_only_where_the_loss_scale_lifts_nothing():
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    model = classifier()
    optimizer = keras.optimizers.LossScaleOptimizer(KernelSGD(0.1), initial_scale=8.0)
    model.compile(optimizer=optimizer, loss=keras.losses.BinaryCrossentropy(from_logits=True))
    step = tf.function(model.train_step, autograph=False)
    model.optimizer.build(model.trainable_variables)
    seen = []
    for spoil in (np.nan, 1000.0, np.inf, 1000.0, 1000.0, None):  # of a thousand the loss is finite, a gradient is not
        scale = float(model.optimizer.dynamic_scale)
        step(batch(model, 0, spoil=spoil))
        seen.append((scale, int(model.bad_steps), int(model.bad_steps_in_row)))
    assert seen == [(8, 1, 1), (4, 2, 0), (2, 3, 1), (1, 4, 2), (0.5, 5, 3), (0.25, 5, 0)]


def test_a_frozen_backbone_is_left_alone_by_good_and_bad_steps():
    model = classifier(linear_probe=True)
    before = [(variable.path, variable.numpy()) for variable in model.backbone.variables]
    train(model, [0, 77, 1], bad={77: np.nan})
    assert_same(before, [(variable.path, variable.numpy()) for variable in model.backbone.variables])


def test_under_float16_the_scale_falls_until_the_gradients_fit_and_nothing_else_has_moved():
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    model = classifier()
    model.compile(
        optimizer=keras.optimizers.LossScaleOptimizer(KernelSGD(0.1), initial_scale=2.0**24),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    model.optimizer.build(model.trainable_variables)
    step, bad = tf.function(model.train_step, autograph=False), None
    while bad != int(model.bad_steps):
        before, bad = state_of(model), int(model.bad_steps)
        step(batch(model, 0))
        assert int(model.bad_steps_in_row) == 0  # these are overflows
        if int(model.bad_steps) > bad:
            assert_same(before, state_of(model), but=("dynamic_scale", "step_counter"))
    assert 1 <= int(model.bad_steps) < 15
    assert float(model.optimizer.dynamic_scale) == 2.0 ** (24 - int(model.bad_steps))
    assert int(model.optimizer.inner_optimizer.iterations) == 1


def test_fit_reports_bad_steps_of_the_epoch_and_keeps_compiled_metrics_clean():
    class Network(GuardedModel):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.dense.build((None, 2))
            self.built = True

        def call(self, inputs):
            return self.dense(inputs)

    def history(samples):
        keras.utils.set_random_seed(0)
        model = Network()
        model.compile(optimizer=KernelSGD(0.05), loss="mse", metrics=["mae"])
        return model.fit(samples, samples[:, :1], batch_size=4, epochs=2, shuffle=False, verbose=0).history

    samples = np.random.default_rng(0).normal(size=(14, 2)).astype(np.float32)
    spoilt = np.concatenate([samples[:4], np.full((4, 2), np.nan, np.float32), samples[4:]])
    expected, got = history(samples), history(spoilt)
    assert got.pop("bad_steps") == [1, 1]
    assert expected.pop("bad_steps") == [0, 0]
    assert got == expected


def test_the_sizes_of_finite_gradients_do_not_matter():
    model = classifier()
    model.compile(optimizer=KernelSGD(0.0), loss=lambda truth, logits: 1e30 * keras.ops.mean(logits))
    train(model, [0])
    assert int(model.bad_steps) == 0
