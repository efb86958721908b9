import gc
import math
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.models.backbones import build_application
from mulsupcon_tf.optimizers.adamw import KernelAdamW
from mulsupcon_tf.optimizers.registry import build_optimizer
from mulsupcon_tf.optimizers.schedules import warmup_cosine
from mulsupcon_tf.optimizers.sgd import LARS, KernelSGD
from mulsupcon_tf.utils.errors import InputError

STEPS = 7


def naive_adamw(value, gradients, *, rates, decay, scale=1.0, b1=0.9, b2=0.999, epsilon=1e-7):
    """arXiv 1711.05101, algorithm 2, with decay λ·η·θ; ε where Keras has it: beside the uncorrected root."""
    value, first, second = value.astype(np.float64), 0.0, 0.0
    for t, (gradient, rate) in enumerate(zip(gradients.astype(np.float64), rates, strict=True), start=1):
        value = value - scale * rate * decay * value
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient**2
        corrected = scale * rate * math.sqrt(1 - b2**t) / (1 - b1**t)
        value = value - corrected * first / (np.sqrt(second) + epsilon)
    return value


def naive_sgd(value, gradients, *, rates, decay, scale=1.0, momentum=0.9):
    """MoCo's: decay in the gradient, momentum without looking ahead."""
    value, velocity = value.astype(np.float64), 0.0
    for gradient, rate in zip(gradients.astype(np.float64), rates, strict=True):
        velocity = momentum * velocity + scale * rate * (gradient + decay * value)
        value = value - velocity
    return value


def naive_lars(value, gradients, *, rates, decay, scale=1.0, momentum=0.9, trust=0.001):
    """arXiv 1708.03888, algorithm 1; what is no kernel is left out of it."""
    value, velocity = value.astype(np.float64), 0.0
    for gradient, rate in zip(gradients.astype(np.float64), rates, strict=True):
        local = 1.0
        if value.ndim > 1:
            size, slope = math.sqrt((value**2).sum()), math.sqrt((gradient**2).sum())
            local = trust * size / (slope + decay * size) if size and slope else 1.0
        velocity = momentum * velocity + scale * rate * local * (gradient + decay * value)
        value = value - velocity
    return value


def variables_and_gradients(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (3, 4), "convolution": (2, 2, 3, 2), "bias": (4,), "scalar": ()}
    variables = {name: keras.Variable(rng.normal(size=shape), name=name) for name, shape in shapes.items()}
    gradients = {name: rng.normal(size=(STEPS, *shape)).astype(np.float32) for name, shape in shapes.items()}
    return variables, gradients


def take_all_steps(optimizer, schedule, variables, gradients):
    """Returns the learning rate of each step."""
    for step in range(STEPS):
        optimizer.apply_gradients([(tf.constant(gradients[name][step]), variables[name]) for name in variables])
    return [float(schedule(step)) for step in range(STEPS)]


NAIVE = {KernelAdamW: (naive_adamw, 0.1), KernelSGD: (naive_sgd, 0.1), LARS: (naive_lars, 20.0)}


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("kind", NAIVE)
def test_an_optimizer_is_its_naive_loop_and_decays_kernels_only(kind, decay):
    naive, peak = NAIVE[kind]
    variables, gradients = variables_and_gradients()
    start = {name: variable.numpy() for name, variable in variables.items()}
    schedule = warmup_cosine(peak, total_steps=STEPS, warmup_steps=2)
    optimizer = kind(schedule, weight_decay=decay)
    optimizer.scale_learning_rate([variables["convolution"], variables["bias"]], 0.1)
    rates = take_all_steps(optimizer, schedule, variables, gradients)
    for name, variable in variables.items():
        expected = naive(
            start[name],
            gradients[name],
            rates=rates,
            decay=decay if name in ("kernel", "convolution") else 0.0,
            scale=0.1 if name in ("convolution", "bias") else 1.0,
        )
        np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-5, atol=2e-6, err_msg=name)


def test_lars_moves_a_kernel_whose_weights_or_gradients_are_all_0():
    start, gradients = np.zeros((2, 3)), np.zeros((STEPS, 2, 3), np.float32)
    gradients[2:4] = np.random.default_rng(0).normal(size=(2, 2, 3))
    kernel, optimizer = keras.Variable(start), LARS(0.1)
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), kernel)])
    assert np.abs(kernel.numpy()).max() > 0.1
    np.testing.assert_allclose(kernel.numpy(), naive_lars(start, gradients, rates=[0.1] * STEPS, decay=0.0), rtol=1e-5)


@pytest.mark.parametrize("kind", [KernelSGD, LARS])
def test_inside_the_loss_scale_optimizer_the_steps_are_those_of_the_unscaled_gradients(kind):
    naive, _ = NAIVE[kind]
    variables, gradients = variables_and_gradients()
    start = {name: variable.numpy() for name, variable in variables.items()}
    inner = kind(0.1, weight_decay=0.3)
    inner.scale_learning_rate([variables["kernel"]], 0.5)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    optimizer.build(list(variables.values()))
    for step in range(STEPS):
        pairs = [(8.0 * tf.constant(gradients[name][step]), variables[name]) for name in variables]
        if step == 3:  # one that overflows is passed over
            optimizer.apply_gradients([(gradient * math.inf, variable) for gradient, variable in pairs])
            assert float(optimizer.dynamic_scale) == 4.0
        optimizer.apply_gradients(
            [(gradient * (optimizer.dynamic_scale / 8.0), variable) for gradient, variable in pairs]
        )
    for name, variable in variables.items():
        decay, scale = 0.3 if variable.ndim > 1 else 0.0, 0.5 if name == "kernel" else 1.0
        expected = naive(start[name], gradients[name], rates=[0.1] * STEPS, decay=decay, scale=scale)
        np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("by", ["variable", "name"])
@pytest.mark.parametrize("kind", NAIVE)
def test_what_is_excluded_from_weight_decay_is_not_decayed(kind, by):
    naive, peak = NAIVE[kind]
    variables, gradients = variables_and_gradients()
    start = {name: variable.numpy() for name, variable in variables.items()}
    schedule = warmup_cosine(peak, total_steps=STEPS, warmup_steps=2)
    optimizer = kind(schedule, weight_decay=0.3)
    given = {"var_list": [variables["convolution"]]} if by == "variable" else {"var_names": ["convol"]}
    optimizer.exclude_from_weight_decay(**given)
    rates = take_all_steps(optimizer, schedule, variables, gradients)
    for name, variable in variables.items():
        expected = naive(start[name], gradients[name], rates=rates, decay=0.3 if name == "kernel" else 0.0)
        np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-5, atol=2e-6, err_msg=name)


def test_depthwise_kernels_are_decayed_and_layer_scales_are_not():
    model = build_application("convnext-tiny", (32, 32, 3))
    optimizer = build_optimizer("sgd", 1.0, 0.5)
    before = [variable.numpy() for variable in model.trainable_variables]
    optimizer.apply_gradients([(tf.zeros(variable.shape), variable) for variable in model.trainable_variables])
    kinds = {True: set(), False: set()}
    for old, variable in zip(before, model.trainable_variables, strict=True):
        name = variable.path.split("/")[-2:]
        if np.any(old != 0):  # biases start at 0, where decay shows nothing
            kinds[bool(np.any(old != variable.numpy()))].add("layer_scale" if "layer_scale" in name[0] else name[1])
    assert kinds == {True: {"kernel"}, False: {"gamma", "layer_scale"}}


@pytest.mark.parametrize(("name", "kind"), [("adamw", KernelAdamW), ("sgd", KernelSGD), ("lars", LARS)])
def test_an_optimizer_is_built_by_its_name(name, kind):
    optimizer = build_optimizer(name, warmup_cosine(0.5, total_steps=9, warmup_steps=0), 0.25)
    assert type(optimizer) is kind
    assert (optimizer.kernel_decay, float(optimizer.learning_rate)) == (0.25, 0.5)
    assert (getattr(optimizer, "momentum", 0.9), getattr(optimizer, "nesterov", False)) == (0.9, False)


def test_scaled_learning_rates_hold_inside_the_loss_scale_optimizer():
    # Adam's first step is the learning rate times the sign of the gradient
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    inputs = keras.Input((2,))
    outputs = keras.layers.Dense(1, name="head")(keras.layers.Dense(2, name="body")(inputs))
    model = keras.Model(inputs, outputs)
    optimizer = KernelAdamW(1e-2, weight_decay=0.0)
    optimizer.scale_learning_rate(model.get_layer("body").trainable_variables, 0.25)
    model.compile(optimizer=optimizer, loss="mse", jit_compile=False)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    before = {variable.path: variable.numpy() for variable in model.trainable_variables}
    for _ in range(10):  # the first steps may overflow, which halves the scale and changes nothing else
        model.train_on_batch(np.ones((4, 2), np.float32), np.full((4, 1), 0.5, np.float32))
        if int(optimizer.iterations) == 1:
            break
    for variable in model.trainable_variables:
        moved = np.abs(variable.numpy() - before[variable.path])
        expected = 0.25e-2 if "body" in variable.path else 1e-2
        np.testing.assert_allclose(moved, expected, rtol=1e-2, err_msg=variable.path)


def test_a_step_whose_scaled_gradient_overflows_changes_no_weight():
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer=KernelAdamW(1e-2, weight_decay=0.1), loss="mse", jit_compile=False)
    before = model.get_weights()
    model.train_on_batch(np.full((4, 2), 1e30, np.float32), np.zeros((4, 1), np.float32))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert float(model.optimizer.dynamic_scale) == 2.0**14  # halved from 2 ** 15


def test_adamw_makes_what_all_variables_share_once_a_step():
    variables, gradients = [keras.Variable(np.ones(3, np.float32)) for _ in range(5)], [tf.ones(3)] * 5
    optimizer = KernelAdamW(1e-2)
    optimizer.build(variables)
    graph = tf.function(lambda: optimizer.apply(gradients, variables)).get_concrete_function().graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert (kinds.count("Pow"), kinds.count("ResourceApplyAdam")) == (2, 5)


def test_what_adamw_does_not_do_is_refused():
    with pytest.raises(InputError, match=r"amsgrad must be False\. Received: amsgrad=True"):
        KernelAdamW(amsgrad=True)
    assert KernelAdamW(amsgrad=False).get_config()["amsgrad"] is False


def test_adamw_is_rebuilt_from_its_config():
    optimizer = KernelAdamW(warmup_cosine(0.1, total_steps=9, warmup_steps=3), weight_decay=0.2, beta_1=0.8)
    twin = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert (type(twin), twin.kernel_decay, twin.beta_1) == (KernelAdamW, 0.2, 0.8)
    assert float(twin._learning_rate(4)) == float(optimizer._learning_rate(4))


@pytest.mark.parametrize("kind", [KernelSGD, LARS])
def test_sgd_and_lars_are_rebuilt_from_their_config(kind):
    settings = {"weight_decay": 0.2, "momentum": 0.8} | ({"trust_coefficient": 0.02} if kind is LARS else {})
    optimizer = kind(warmup_cosine(0.1, total_steps=9, warmup_steps=3), **settings)
    twin = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(twin) is kind
    assert twin.get_config() == optimizer.get_config()
    assert settings.items() <= twin.get_config().items()


@pytest.mark.parametrize("build", [KernelAdamW, KernelSGD, LARS])
def test_the_graph_of_a_step_goes_with_its_function(build):
    """A process that fits many models would otherwise hold every step that it has ever traced."""
    optimizer, variable = build(), keras.Variable(np.ones((3, 3), np.float32))
    optimizer.build([variable])

    @tf.function(autograph=False)
    def step(gradient):
        optimizer.apply([gradient], [variable])

    graph = weakref.ref(step.get_concrete_function(tf.TensorSpec((3, 3))).graph)
    del step
    gc.collect()
    assert graph() is None
