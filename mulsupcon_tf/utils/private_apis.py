"""What this package uses of TensorFlow and Keras that is not part of their public interface, all in one place.

A new version may change or remove any of it without a word. Each function says what to do then; its test fails first.
Imports stand within the functions, so that what is gone breaks what needs it and nothing else.
"""

import contextlib
import types
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf


def set_silence_of_workers(num_workers: int, seconds: int) -> None:
    """Sets after how many seconds a worker of `tf.distribute` that is not heard of counts as lost.

    When it goes: look for a setting of `tf.distribute` itself, which has had none; without one leave the call out, and
    TensorFlow's ten seconds hold, which are too few on a busy machine.

    Args:
        num_workers: processes that train together.
        seconds: at least 1.
    """
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
    from tensorflow.python.eager import context

    if context.context().coordination_service is None:
        context.context().configure_coordination_service(
            service_type="standalone",
            service_leader="/job:worker/replica:0/task:0",
            heartbeat_timeout_in_ms=1000 * seconds,
            coordinated_jobs=[CoordinatedJob(name="worker", num_tasks=num_workers)],
        )


def leave_workers(number: int, worker: int, num_workers: int, seconds: int) -> None:
    """Waits until all workers of `tf.distribute` have called this; worker 0, who keeps the others in touch, leaves last.

    When it goes: leave the call out; of workers who end together one may then say that it has lost touch with another.

    Args:
        number: another one at each call, the same on all workers.
        worker: index of this one.
        num_workers: processes that train together.
        seconds: for which others are waited for; one that waits in vain leaves without an error.
    """
    from tensorflow.python.eager import context

    table, milliseconds = context.context(), 1000 * seconds
    with contextlib.suppress(tf.errors.OpError):
        table.set_config_key_value(f"here/{number}/{worker}", "1")
        for other in range(num_workers):
            table.get_config_key_value(f"here/{number}/{other}", milliseconds)
        if worker:
            table.set_config_key_value(f"left/{number}/{worker}", "1")
        for other in () if worker else range(1, num_workers):
            table.get_config_key_value(f"left/{number}/{other}", milliseconds)


def texts_of_workers(name: str, text: str, worker: int, num_workers: int, seconds: int) -> list[str]:
    """The text of every worker of `tf.distribute`, who all must call this; nothing goes over their devices.

    When it goes: leave the call out; workers with different numbers of devices then wait for each other for ever.

    Args:
        name: another one at each call, the same on all workers.
        text: of this one.
        worker: index of this one.
        num_workers: processes that train together.
        seconds: for which others are waited for.

    Raises:
        tf.errors.OpError: another worker is not heard of.
    """
    from tensorflow.python.eager import context

    table = context.context()
    table.set_config_key_value(f"{name}/{worker}", text)
    texts = [table.get_config_key_value(f"{name}/{other}", 1000 * seconds) for other in range(num_workers)]
    # Worker 0 keeps the table: it goes on, perhaps to its end, when the others have read it.
    if worker:
        table.set_config_key_value(f"{name} read/{worker}", "1")
    for other in () if worker else range(1, num_workers):
        table.get_config_key_value(f"{name} read/{other}", 1000 * seconds)
    return texts


def replicas_reduce_anywhere() -> bool:
    """Whether the replicas of the strategy that is in force may reduce within a condition or a loop.

    When it goes: `not tf.distribute.has_strategy()`; the other way of `models.replicas.replica_cond` holds under every one.
    """
    return tf.__internal__.distribute.strategy_supports_no_merge_call()


def memory_of_devices() -> dict[str, int]:
    """Bytes that TensorFlow has to give out on each device, by the name that `tf.config.list_logical_devices` has.

    When it goes: let `models.key_queue.memory_of_gpu` return None; the queue is then looked at in small blocks on a GPU too.
    """
    from tensorflow.python import pywrap_tfe
    from tensorflow.python.client import pywrap_tf_session
    from tensorflow.python.eager import context

    context.context().ensure_initialized()
    devices = pywrap_tfe.TFE_ContextListDevices(context.context()._handle)
    try:
        return {
            pywrap_tf_session.TF_DeviceListName(devices, number).rpartition("/task:0")[2]: (
                pywrap_tf_session.TF_DeviceListMemoryBytes(devices, number)
            )
            for number in range(pywrap_tf_session.TF_DeviceListCount(devices))
        }
    finally:
        pywrap_tf_session.TF_DeleteDeviceList(devices)


class SumOverReplicas(keras.optimizers.Optimizer):
    """An optimizer that leaves gradients as they are where one replica has them all.

    Keras' sum over replicas registers a function for its own gradient, by which TensorFlow keeps the graph of every step that
    was ever traced: 40 MB for each training of a small ResNet in one process.

    When it goes: leave it out; processes that train many models grow, and nothing else changes.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars):
        one = tf.distribute.get_strategy().num_replicas_in_sync == 1
        return grads_and_vars if one else super()._all_reduce_sum_gradients(grads_and_vars)


def forget_kernels() -> None:
    """Frees the kernels of operations that were run by themselves; those that are needed again are made again.

    TensorFlow keeps 34 kB for each name that a variable ever had, and Keras counts its names up.

    When it goes: leave the call out; processes that train many models grow.
    """
    from tensorflow.python.eager import context

    context.context().clear_kernel_cache()


def layers_within(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A layer or model, and all layers that it holds at any depth, those of layers of one's own too.

    When it goes: a loop over `layers`, which models and a few layers of Keras have, finds all but layers in other layers.
    """
    return layer._flatten_layers()


def producer_of(tensor: keras.KerasTensor) -> keras.Operation:
    """The layer or operation of a functional model that made a tensor.

    When it goes: build the networks of `models.backbones.APPLICATIONS` with Keras' own layers; they are slower, not wrong.
    """
    return tensor._keras_history.operation


def num_readers(operation: keras.Operation) -> int:
    """How many operations read what a layer or operation of a functional model gives.

    When it goes: as for `producer_of`.
    """
    return len(operation._outbound_nodes)


def less_is_better(names: Iterable[str]) -> keras.metrics.Metric:
    """A metric without a value: callbacks without `mode` take a number of one of these names for better when it falls.

    When it goes: leave it out of `ContrastivePretrainer.metrics`; callbacks that watch another number than `val_loss` then ask
    for a `mode`.
    """
    from keras.src.trainers.compile_utils import MetricsList

    class LessIsBetter(MetricsList):
        """Keras finds direction and name of what it holds, and no value."""

        def reset_state(self):
            """Nothing to reset."""

        def result(self):
            """No number."""
            return {}

    return LessIsBetter([types.SimpleNamespace(name=name, _direction="down") for name in names])


def write_event(writer: tf.summary.SummaryWriter, event: bytes) -> None:
    """Writes a serialised `Event`, of any kind, to an event file.

    When it goes: leave out what `TensorBoard.begin` writes; of a continued run TensorBoard then shows steps twice.
    """
    tf.raw_ops.ImportEvent(writer=writer._resource, event=event)


def with_constants(function: tf.types.experimental.ConcreteFunction) -> tf.types.experimental.ConcreteFunction:
    """The function, whose variables have become constants.

    When it goes: `tf2onnx.convert.from_keras` makes an ONNX file without it; look at the names of input and outputs.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function)


def variable_key(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> Any:
    """What an optimizer tells variables apart by: the same for a variable and for TensorFlow's own one within it.

    When it goes: `keras.Variable.path`, if `update_step` of an optimizer gets Keras' variables under every strategy.
    """
    return optimizer._var_key(variable)


def is_decayed(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> bool:
    """Whether `exclude_from_weight_decay` of an optimizer has left a variable in.

    When it goes: refuse `exclude_from_weight_decay` in `optimizers.kernel_decay`.
    """
    return optimizer._use_weight_decay(variable)


def adam_moments(optimizer: keras.optimizers.Adam, variable: keras.Variable) -> tuple[Any, Any]:
    """The variables in which Adam keeps the means of a variable's gradients and of their squares.

    When it goes: let `KernelAdamW` make its own by `add_variable_from_reference` in `build`; or call `update_step` of
    `keras.optimizers.Adam`, which gives the same numbers and takes a seventh of a step of a small model longer.

    Args:
        optimizer: built.
        variable: one that it was built for.

    Returns:
        m and v (arXiv 1412.6980, algorithm 1), each of the variable's shape.
    """
    index = optimizer._get_variable_index(variable)
    return optimizer._momentums[index], optimizer._velocities[index]
