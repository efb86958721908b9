"""Each private interface is tried on the installed version; where one has gone, the failure says what to do."""

import contextlib
import inspect
import pathlib
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto import event_pb2

from mulsupcon_tf.utils import private_apis
from tests.helpers.forking import run_forked

FUNCTIONS = {
    name: function
    for name, function in inspect.getmembers(
        private_apis, lambda each: inspect.isfunction(each) or inspect.isclass(each)
    )
    if function.__module__ == private_apis.__name__
}


@contextlib.contextmanager
def advice(function):
    """Puts the function's own words below whatever goes wrong with it."""
    try:
        yield
    except Exception as error:
        raise AssertionError(
            f"{function.__name__} no longer works (TensorFlow {tf.__version__}, Keras {keras.__version__}): "
            f"{type(error).__name__}: {error}\n{inspect.getdoc(function)}"
        ) from error


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_says_what_to_do_when_it_goes(name):
    assert "\nWhen it goes: " in inspect.getdoc(FUNCTIONS[name])


def test_what_goes_is_told_with_what_to_do():
    expected = r"(?s)variable_key no longer works.*no attribute '_var_key'.*When it goes: `keras.Variable.path`"
    with pytest.raises(AssertionError, match=expected), advice(private_apis.variable_key):
        private_apis.variable_key(types.SimpleNamespace(), keras.Variable(0.0))


def test_kernels_are_forgotten_and_the_sum_over_one_replica_is_none():
    with advice(private_apis.forget_kernels):
        private_apis.forget_kernels()
    with advice(private_apis.SumOverReplicas):
        assert hasattr(keras.optimizers.Optimizer, "_all_reduce_sum_gradients")


def test_the_silence_of_workers_is_set_before_tensorflow_starts():
    with advice(private_apis.set_silence_of_workers):
        done = run_forked("tests.helpers.programs.silence_of_workers")
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["77000"]


def test_a_worker_leaves_when_the_others_are_there_or_have_had_their_time():
    done = run_forked("tests.helpers.programs.lone_worker")
    assert done.returncode == 0, done.stderr
    with advice(private_apis.texts_of_workers):
        *told, unread, all_there, in_vain = map(float, done.stdout.split())
        assert told == [2, 1] and unread == -1
    with advice(private_apis.leave_workers):
        assert all_there < 0.9 < in_vain < 10


def test_without_a_strategy_a_replica_reduces_anywhere_and_on_processors_it_does_not():
    with advice(private_apis.replicas_reduce_anywhere):
        assert private_apis.replicas_reduce_anywhere()
        with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
            assert not private_apis.replicas_reduce_anywhere()


def test_each_device_has_its_memory():
    with advice(private_apis.memory_of_devices):
        memory = private_apis.memory_of_devices()
        assert memory.keys() >= {device.name for device in tf.config.list_logical_devices("CPU")}
        assert all(each > 2**20 for each in memory.values())


def test_the_producer_of_a_tensor_and_the_readers_of_a_layer_are_found():
    inputs = keras.Input((3,))
    first = keras.layers.Dense(4)
    between = first(inputs)
    second = keras.layers.Dense(2)
    keras.Model(inputs, [second(between), keras.layers.ReLU()(between)])
    with advice(private_apis.producer_of):
        assert private_apis.producer_of(second.input) is first
    with advice(private_apis.num_readers):
        assert [private_apis.num_readers(layer) for layer in (first, second)] == [2, 0]


def test_callbacks_find_out_that_less_is_better():
    callback = keras.callbacks.EarlyStopping("val_strain")
    metric = private_apis.less_is_better(["strain", "stress"])
    callback.set_model(types.SimpleNamespace(metrics=[metric]))
    with advice(private_apis.less_is_better):
        callback._set_monitor_op()
        assert bool(callback.monitor_op(1.0, 2.0))
        metric.reset_state()
        assert metric.result() == {} and metric.variables == []


def test_an_event_is_written_as_it_is(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    with advice(private_apis.write_event):
        private_apis.write_event(writer, event_pb2.Event(step=7, session_log=start).SerializeToString())
    writer.close()
    (path,) = tmp_path.iterdir()
    assert (7, start) in [(event.step, event.session_log) for event in EventFileLoader(str(path)).Load()]


def test_variables_become_constants():
    factor = tf.Variable(3.0)
    function = tf.function(lambda x: {"product": factor * x}, input_signature=[tf.TensorSpec([None], name="x")])
    with advice(private_apis.with_constants):
        frozen = private_apis.with_constants(function.get_concrete_function())
        factor.assign(5.0)
        (product,) = frozen(tf.constant([2.0]))
        assert product.numpy().tolist() == [6.0]
        assert [tensor.name for tensor in frozen.inputs] == ["x:0"]
        assert len(frozen.outputs) == 1


def test_a_variable_has_one_key_and_one_pair_of_moments():
    optimizer, variables = keras.optimizers.Adam(0.1), [keras.Variable(np.ones(2)), keras.Variable(np.ones(3))]
    optimizer.build(variables)
    keys = []
    with advice(private_apis.variable_key):
        keys = [private_apis.variable_key(optimizer, variable) for variable in variables]
        assert keys[0] != keys[1]
        assert keys == [private_apis.variable_key(optimizer, variable) for variable in variables]
    gradients = [np.full(2, 2.0, np.float32), np.full(3, -4.0, np.float32)]
    optimizer.apply([tf.constant(gradient) for gradient in gradients], variables)
    with advice(private_apis.adam_moments):
        for variable, gradient in zip(variables, gradients, strict=True):
            mean, square = private_apis.adam_moments(optimizer, variable)
            np.testing.assert_allclose(mean, 0.1 * gradient, rtol=1e-6)
            np.testing.assert_allclose(square, 0.001 * gradient**2, rtol=1e-4)


def test_a_variable_that_was_excluded_is_not_decayed():
    kernel, other = keras.Variable(np.ones((2, 2)), name="kernel"), keras.Variable(np.ones((2, 2)), name="other")
    optimizer = keras.optimizers.AdamW(0.1)
    optimizer.exclude_from_weight_decay(var_list=[kernel])
    with advice(private_apis.is_decayed):
        assert [private_apis.is_decayed(optimizer, each) for each in (kernel, other)] == [False, True]


def test_layers_are_found_at_any_depth():
    class Own(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(2)

    own = Own()
    model = keras.Sequential([keras.Sequential([own])])
    with advice(private_apis.layers_within):
        found = list(private_apis.layers_within(model))
        assert model in found and own in found and own.inner in found


def test_each_is_tried_here():
    source = pathlib.Path(__file__).read_text(encoding="utf-8")
    assert [name for name in FUNCTIONS if f"with advice(private_apis.{name}):" not in source] == []
