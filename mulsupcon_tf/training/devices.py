"""The devices that a run trains on: one, all of this machine, or those of several workers.

The work is TensorFlow's: a `tf.distribute` strategy holds a copy of every variable on each device and runs the same
train step there. `replicas` is the view from within that step, this module the view from outside.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.training.cluster import WORKER_TYPE, Cluster, read_cluster, wait_for_all
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.graphs import compiled
from mulsupcon_tf.utils.private_apis import leave_workers, set_silence_of_workers, texts_of_workers

PATIENCE_SECONDS = 20  # that a worker which is about to end waits for the others to have what it has sent
SILENCE_SECONDS = 40  # a worker that was killed is missed at once, one that is frozen or cut off after this time
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
# TensorFlow reads it at its first batch normalisation. Without it half precision is brought to channels first and back. The
# kernels that it allows can overflow where others would not; then the loss is not finite, and the step is left out.
NORMALISE_IN_PLACE = "TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT"
_SEED_DISTANCE = 2654435761  # between the dropout seeds of two replicas: 2^32 over the golden ratio
_PARTINGS = itertools.count()


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a run trains on, as one process, a worker, sees it.

    Attributes:
        strategy: TensorFlow's; its default one for a single device.
        worker: index of this worker; worker 0 is the chief, who alone writes the run directory.
        num_workers: processes that train together.
    """

    strategy: tf.distribute.Strategy = dataclasses.field(default_factory=tf.distribute.get_strategy)
    worker: int = 0
    num_workers: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes logs, checkpoints and results."""
        return self.worker == 0

    @property
    def shard(self) -> tuple[int, int]:
        """Which contiguous share of each batch this worker reads, and of how many."""
        return self.worker, self.num_workers

    @property
    def num_replicas(self) -> int:
        """Devices of all workers."""
        return self.strategy.num_replicas_in_sync

    def check(self, batch_size: int, parts: int = 1) -> None:
        """Raises InputError unless every replica gets the same number of samples, in so many equal parts."""
        if batch_size % (self.num_replicas * parts):
            raise InputError(
                f"--batch_size is shared by all devices and must be a multiple of the {self.num_replicas} there are"
                f"{f' times --gradient_accumulation_steps={parts}' if parts > 1 else ''}. Received: --batch_size={batch_size}"
            )

    def on_every_replica(self, step: Callable[[Any], None], batch: Any) -> None:
        """Calls `step` with each replica's contiguous share of this worker's batch; used within a compiled function."""
        replicas = self.num_replicas // self.num_workers

        def share(tensor: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            number, size = context.replica_id_in_sync_group % replicas, tf.shape(tensor)[0] // replicas
            with tf.device("CPU:0"):  # where the batch is: a device is sent its own share only
                return tensor[number * size : (number + 1) * size]

        def of_share(batch: Any) -> None:
            step(batch if replicas == 1 else tf.nest.map_structure(share, batch))

        self.strategy.run(of_share, args=(batch,))

    def value(self, variable: keras.Variable) -> np.ndarray:
        """What this worker's first replica holds. Reading a running mean otherwise would sum it over the workers."""
        return np.asarray(self.strategy.experimental_local_results(variable.value)[0])

    def metrics_reader(self, model: keras.Model) -> Callable[[], dict[str, float]]:
        """A function that gives the running means, which are the same on every replica, and lets them begin anew."""

        def read_and_reset() -> dict[str, tf.Tensor]:
            means = model.get_metrics_result()
            model.reset_metrics()
            return means

        # Compiled: so many assignments one by one take as long as a third of a step on small vector sets.
        read = compiled(lambda: self.strategy.run(read_and_reset))
        return lambda: {
            name: float(self.strategy.experimental_local_results(value)[0]) for name, value in read().items()
        }

    def assign_everywhere(self, variables: Sequence[keras.Variable], arrays: Sequence[np.ndarray]) -> None:
        """Gives each replica's copy of small variables the same value. Otherwise running means would be divided up."""

        def assign() -> None:
            for variable, array in zip(variables, arrays, strict=True):
                variable.assign(array)

        if variables:
            self.strategy.run(compiled(assign))

    def seed_replicas_differently(self, model: keras.Model) -> None:
        """Moves the seeds of dropout, equal on all replicas so far, so that each replica draws its own numbers."""
        trained = {id(weight) for weight in model.weights}
        seeds = [variable for variable in model.variables if id(variable) not in trained]
        if self.num_replicas == 1 or not seeds:
            return

        def move() -> None:
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            for seed in seeds:
                distance = tf.cast(tf.cast(number, tf.int64) * _SEED_DISTANCE % 2**31, seed.dtype)
                seed.assign(seed.value + tf.stack([distance, tf.zeros_like(distance)]))

        self.strategy.run(compiled(move))

    def gather(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """`[num_workers, len(values)]` float64: the values of every worker, who all must call this."""
        if self.num_workers == 1:
            return np.array([values], np.float64)
        rows = np.zeros((self.num_workers, len(values)))
        rows[self.worker] = values
        total = self._sum(tf.constant(rows))
        return self.strategy.experimental_local_results(total)[0].numpy() * self.num_workers / self.num_replicas

    def gather_texts(self, text: str) -> list[str]:
        """The text of every worker, who all must call this."""
        own = np.frombuffer(text.encode(), np.uint8)
        lengths = self.gather([len(own)])[:, 0].astype(int)
        rows = self.gather(np.pad(own, (0, lengths.max() - len(own))))
        return [
            bytes(row[:length].astype(np.uint8)).decode() for row, length in zip(rows.round(), lengths, strict=True)
        ]

    def part(self) -> None:
        """The last exchange of workers who all are about to end, be it by an error that they have in common.

        None ends before all are here: a launcher may kill the others when one does. And none ends before the others have
        what they exchanged: each fetches it, and the chief keeps the table of keys.
        """
        self.gather([0])
        if self.num_workers > 1:
            leave_workers(next(_PARTINGS), self.worker, self.num_workers, PATIENCE_SECONDS)

    @contextlib.contextmanager
    def synchronised_exit(self) -> Iterator[None]:
        """A part of the program at whose end the workers wait for each other; if one is lost, the others raise an error.

        TensorFlow notices within seconds that a worker is gone or frozen: the next exchange with it fails.

        Raises:
            ConnectionError: in place of TensorFlow's error.
        """
        with self.lost_as_connection_error():
            yield
            self.part()

    @contextlib.contextmanager
    def lost_as_connection_error(self) -> Iterator[None]:
        """Where an exchange fails because another worker is gone, raises ConnectionError, which names it."""
        try:
            yield
        except _LOST as error:
            if self.num_workers == 1:
                raise
            named = sorted({int(number) for number in re.findall(r"task:(\d+)", error.message)} - {self.worker})
            raise ConnectionError(
                "All workers must stay until the end; the same command on all of them continues from the last checkpoint. "
                f"Received: worker {self.worker} has lost touch with {f'worker {named[0]}' if named else 'another one'}"
            ) from error

    @functools.cached_property
    def _sum(self):
        def of_replica(rows: tf.Tensor) -> tf.Tensor:
            rows = tf.identity(rows)  # on this replica's device, which is where the sum goes
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, rows)

        return compiled(lambda rows: self.strategy.run(of_replica, args=(rows,)))


def open_devices(config: TrainingConfig) -> Devices:
    """Sets up what `--strategy` and `--logical_devices` ask for; call it before TensorFlow computes anything.

    In half precision a GPU then normalises images as they lie in memory, unless the environment says otherwise.

    Raises:
        InputError: the settings cannot be met.
    """
    if config.mixed_precision != "none":
        os.environ.setdefault(NORMALISE_IN_PLACE, "1")
    if config.logical_devices is not None:
        _split_cpu(config.logical_devices)
    if config.strategy == "none":
        return Devices()
    if config.strategy == "mirrored":
        kind = "CPU" if config.logical_devices is not None or not tf.config.list_logical_devices("GPU") else "GPU"
        return Devices(_strategy(*(device.name for device in tf.config.list_logical_devices(kind))))
    cluster = read_cluster(os.environ.get("TF_CONFIG", ""))
    wait_for_all(cluster)
    # TensorFlow's ten seconds are too few for a busy machine.
    set_silence_of_workers(len(cluster.addresses), SILENCE_SECONDS)
    devices = Devices(_strategy_of_workers(cluster), cluster.worker, len(cluster.addresses))
    _require_same_devices(devices)
    return devices


def _require_same_devices(devices: Devices) -> None:
    """Ends all workers, each with the same line, unless each has as many devices as the others: an exchange would hang."""
    kinds = [tf.DeviceSpec.from_string(name).device_type for name in devices.strategy.extended.worker_devices]
    own = f"{len(kinds)} {kinds[0]}"
    with devices.lost_as_connection_error():
        told = texts_of_workers("devices", own, devices.worker, devices.num_workers, SILENCE_SECONDS)
    if len(set(told)) > 1:
        leave_workers(next(_PARTINGS), devices.worker, devices.num_workers, PATIENCE_SECONDS)
        found = ", ".join(f"worker {number} with {text}" for number, text in enumerate(told))
        raise InputError(f"Workers that train together must have as many devices each. Received: {found}")


@functools.cache  # two strategies on the same devices would mistake each other's exchanges for their own
def _strategy(*devices: str) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(devices)


@functools.cache
def _strategy_of_workers(cluster: Cluster) -> tf.distribute.Strategy:
    """Of workers alone: what TF_CONFIG calls the chief is worker 0 here."""
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({WORKER_TYPE: list(cluster.addresses)}), task_type=WORKER_TYPE, task_id=cluster.worker
    )
    handler = signal.getsignal(signal.SIGTERM)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # TensorFlow has put one in its place that swallows the signal
    return strategy


def _split_cpu(count: int) -> None:
    (cpu,) = tf.config.list_physical_devices("CPU")
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:  # TensorFlow has started
        if len(tf.config.list_logical_devices("CPU")) != count:
            raise InputError(
                f"--logical_devices must be set before TensorFlow starts. Received: {count} in a process that has "
                f"{len(tf.config.list_logical_devices('CPU'))}"
            ) from error
