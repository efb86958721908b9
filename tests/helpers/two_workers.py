"""Pairs of processes that train together, forked from one that has imported TensorFlow: a pair costs a second, not ten.

That one is forked itself, by `forking.run_forked`: it reads a file of JSON, a list of pairs, and prints a list of what came of
each.
"""

import functools
import importlib
import json
import os
import pathlib
import signal
import socket
import sys
import tempfile
import time
import traceback

import numpy as np

from tests.helpers.forking import run_forked

PAIR_SECONDS = 60


def free_ports(count):
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_in(place, arrival):
    """Makes the process leave a file and wait for a signal where it calls this function of a module of `commands`."""
    module_name, _, name = place.partition(".")
    module = importlib.import_module(f"mulsupcon_tf.commands.{module_name}")
    function = getattr(module, name)

    def waiting(*args, **kwargs):
        arrival.touch()
        time.sleep(60)
        return function(*args, **kwargs)

    setattr(module, name, waiting)


def save_slowly():
    """Makes a checkpoint take a second."""
    savez = np.savez

    def slow(*args, **kwargs):
        time.sleep(1)
        savez(*args, **kwargs)

    np.savez = slow


def spoil(steps):
    """Makes the first sample that this process reads of these steps' batches NaN."""
    import tensorflow as tf

    from mulsupcon_tf.input_pipeline import feed

    build = feed.training_batches

    def training_batches(*args, first_step=0, **kwargs):
        def spoilt(number, batch):
            inputs, labels = batch
            bad = tf.reduce_any(number + first_step == tf.constant(steps, tf.int64))

            def of_view(view):
                first = tf.reshape(tf.range(len(view)) == 0, [-1] + [1] * (len(view.shape) - 1))
                return tf.where(bad & first, np.float32(np.nan), view)

            return tf.nest.map_structure(of_view, inputs), labels

        return build(*args, first_step=first_step, **kwargs).enumerate().map(spoilt)

    feed.training_batches = training_batches


def leave_variables(path):
    """Makes a worker write what it holds at the end of training; of dropout it has seeds of its own, which are left out."""
    from mulsupcon_tf.commands import finetuning, pretraining

    def leaving(train):
        def train_and_leave(model, feed, *, devices, **kwargs):
            state = train(model, feed, devices=devices, **kwargs)
            variables = [*model.variables, *model.optimizer.variables]
            kept = [devices.value(each) for each in variables if each.name != "seed_generator_state"]
            np.savez(path, *kept)
            return state

        return train_and_leave

    for phase in (pretraining, finetuning):
        phase.train = leaving(phase.train)


def have_devices(count):
    """Makes a worker of this process see so many devices, as if they were GPUs: all of them are its processor."""
    import tensorflow as tf
    from tensorflow.python.distribute import collective_all_reduce_strategy

    (processor,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * count)

    def local_devices(self, resolver, place):
        return tuple(f"{place}/device:CPU:{number}" for number in range(count)), "CPU"

    collective_all_reduce_strategy.CollectiveAllReduceExtended._initialize_local_devices = local_devices


def start(binary, arguments, environment, output, prepare):
    """Starts a binary in a child that writes to the file `output`; returns its process id."""
    child = os.fork()
    if child:
        return child
    with open(output, "wb") as file:  # noqa: PTH123
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= environment
    sys.argv = [binary, *arguments]
    status = 0
    try:
        prepare()
        importlib.import_module(f"mulsupcon_tf.{binary}").run()
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        traceback.print_exc()
        status = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def train_together(
    *,
    binary,
    arguments,
    environments=None,
    timeout=PAIR_SECONDS,
    signal_in=None,
    terminate_after=None,
    devices=None,
    spoilt=None,
    left_in=None,
):
    """Runs two workers, or a process on its own, to their ends.

    Args:
        binary: "pretrain" or "finetune".
        arguments: of the command line, of each worker.
        environments: of each worker; by default a `TF_CONFIG` on free ports.
        timeout: seconds after which they are killed.
        signal_in: the function, as module.name of `commands`, where all are when a launcher sends them SIGTERM.
        terminate_after: the file whose first line is the moment for a launcher to send all SIGTERM; it kills the other
            worker as soon as one has ended. A checkpoint takes a second then.
        devices: how many each worker has; by default one.
        spoilt: of each worker the steps of whose batches its own share holds a NaN.
        left_in: the folder for `0.npz` and `1.npz`, what each worker holds at the end of training.

    Returns:
        By name: "statuses", "lines" of what each printed, "seconds".
    """
    if environments is None:
        cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
        places = [{"cluster": cluster, "task": {"type": "worker", "index": index}} for index in range(2)]
        environments = [{"TF_CONFIG": json.dumps(place)} for place in places]

    def prepare(index):
        if devices:
            have_devices(devices[index])
        if signal_in:
            wait_in(signal_in, arrivals[index])
        if terminate_after:
            save_slowly()
        if spoilt:
            spoil(spoilt[index])
        if left_in:
            leave_variables(pathlib.Path(left_in) / f"{index}.npz")

    moment = pathlib.Path(terminate_after) if terminate_after else None
    lines_before = len(moment.read_text().splitlines()) if moment and moment.exists() else 0
    began, statuses, signalled = time.monotonic(), {}, False
    with tempfile.TemporaryDirectory() as folder:
        outputs = [pathlib.Path(folder) / str(index) for index in range(len(arguments))]
        arrivals = [output.with_suffix(".arrived") for output in outputs]
        children = [
            start(binary, own, environment, outputs[index], functools.partial(prepare, index))
            for index, (own, environment) in enumerate(zip(arguments, environments, strict=True))
        ]
        while len(statuses) < len(children):
            for child in set(children) - statuses.keys():
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    statuses[child] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() - began > timeout or (terminate_after and statuses):
                    os.kill(child, signal.SIGKILL)
            begun = moment and moment.exists() and len(moment.read_text().splitlines()) > lines_before
            there = signal_in and all(arrival.exists() for arrival in arrivals)
            if (begun or there) and not signalled:
                signalled = True
                for child in children:
                    os.kill(child, signal.SIGTERM)
            time.sleep(0.01)
        lines = [output.read_text().splitlines() for output in outputs]
    seconds = time.monotonic() - began
    return {"statuses": [statuses[child] for child in children], "lines": lines, "seconds": seconds}


def outcomes_of(pairs):
    """What came of each of several pairs, or processes on their own, given by the arguments of `train_together`."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(pairs, file)
        file.flush()
        seconds = sum(pair.get("timeout", PAIR_SECONDS) for pair in pairs)
        done = run_forked("tests.helpers.two_workers", file.name, timeout=seconds + PAIR_SECONDS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps([train_together(**pair) for pair in json.loads(pathlib.Path(sys.argv[1]).read_text())]))
