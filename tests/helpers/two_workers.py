"""Pairs of processes that train together, forked from one that has imported TensorFlow: a pair costs a second, not ten.

Run in a process of its own. Reads JSON from standard input, a list of pairs, and prints a list of what came of each.
"""

import importlib
import json
import os
import pathlib
import signal
import socket
import sys
import tempfile
import time

from mulsupcon_tf.config.command_line import import_tensorflow_quietly


def free_ports(count):
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(binary, arguments, environment, output):
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
        importlib.import_module(f"mulsupcon_tf.{binary}").run()
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def train_together(binary, arguments, environments=None, timeout=60):
    """Runs two workers to their ends.

    Args:
        binary: "pretrain" or "finetune".
        arguments: of the command line, of each worker.
        environments: of each worker; by default a `TF_CONFIG` on free ports.
        timeout: seconds after which they are killed.

    Returns:
        By name: "statuses", "lines" of what each printed, "seconds".
    """
    if environments is None:
        cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
        places = [{"cluster": cluster, "task": {"type": "worker", "index": index}} for index in range(2)]
        environments = [{"TF_CONFIG": json.dumps(place)} for place in places]
    began, statuses = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as folder:
        outputs = [pathlib.Path(folder) / str(index) for index in range(len(arguments))]
        children = [
            start(binary, own, environment, output)
            for own, environment, output in zip(arguments, environments, outputs, strict=True)
        ]
        while len(statuses) < len(children):
            for child in set(children) - statuses.keys():
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    statuses[child] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() - began > timeout:
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        lines = [output.read_text().splitlines() for output in outputs]
    seconds = time.monotonic() - began
    return {"statuses": [statuses[child] for child in children], "lines": lines, "seconds": seconds}


if __name__ == "__main__":
    import_tensorflow_quietly()
    for module in ("pretraining", "finetuning"):
        importlib.import_module(f"mulsupcon_tf.commands.{module}")
    print(json.dumps([train_together(**pair) for pair in json.load(sys.stdin)]))
