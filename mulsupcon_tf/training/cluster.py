"""The workers that train together, and which of them this process is, as TF_CONFIG says."""

import dataclasses
import json
import logging
import socket
import time

from mulsupcon_tf.utils.errors import InputError

CHIEF_TYPES = ("chief", "master")  # a task of its own on Vertex AI and Kubeflow; "master" is the older name
WORKER_TYPE = "worker"
SILENT_SECONDS = 10  # workers that are started together see each other within this time
_SHOWN = 500  # characters of a wrong value


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers.

    Attributes:
        addresses: host:port of each; the chief is the first.
        worker: index of this process among them.
    """

    addresses: tuple[str, ...]
    worker: int


def read_cluster(text: str) -> Cluster:
    """Reads TF_CONFIG, also as Vertex AI and Kubeflow write it: a chief beside the workers, an index in quotes.

    Whatever else stands there is passed over.

    Args:
        text: the value of the variable; "" where it is not set.

    Raises:
        InputError: it is not there or damaged, an address is there twice, or this process is a task that does not train.
    """
    try:
        content = json.loads(text)
        tasks, own = content["cluster"], content["task"]
        kind, index = own["type"], int(str(own["index"]))
        groups = {name: tasks.get(name, []) for name in (*CHIEF_TYPES, WORKER_TYPE)}
        if not isinstance(kind, str) or not all(isinstance(group, list) for group in groups.values()):
            raise ValueError("no groups of tasks")
        chiefs = [address for name in CHIEF_TYPES for address in groups[name]]
        addresses = (*chiefs, *groups[WORKER_TYPE])
        if not all(1 <= _port_of(address) <= 65535 for address in addresses):
            raise ValueError("no addresses")
        trains = kind in groups
        if len(chiefs) > 1 or (trains and not 0 <= index < len(groups[kind])):
            raise ValueError("no such task")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            "--strategy=multiworker needs TF_CONFIG in the environment, for example "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}, or with '
            f'one "chief" beside the workers. Received: {" ".join(text.split())[:_SHOWN] or "none"}'
        ) from error
    if not trains:
        raise InputError(
            "--strategy=multiworker trains on the tasks chief and worker of TF_CONFIG; start no others. "
            f"Received: task {kind!r}"
        )
    twice = next((address for address in addresses if addresses.count(address) > 1), None)
    if twice is not None:
        raise InputError(f"Each worker in TF_CONFIG must have an address of its own. Received: {twice} more than once")
    return Cluster(addresses, index + (len(chiefs) if kind == WORKER_TYPE else 0))


def _port_of(address: str) -> int:
    host, _, port = address.rpartition(":")
    if not host or len(address.split()) > 1:
        raise ValueError("no host")
    return int(port)


def wait_for_all(cluster: Cluster) -> None:
    """Waits until the port of every worker answers, and says whom it waits for if that takes long.

    TensorFlow waits too, but so that Python cannot react to SIGTERM or Ctrl-C; and where another process listens on this
    worker's port, TensorFlow shares it, and both wait for ever.

    Raises:
        InputError: another process listens on this worker's port.
    """
    missing = [number for number in range(len(cluster.addresses)) if number != cluster.worker]
    since, silent = time.monotonic(), True
    with _listener(_port_of(cluster.addresses[cluster.worker])):  # what the others look for
        while missing := [number for number in missing if not _answers(cluster.addresses[number])]:
            if silent and time.monotonic() - since > SILENT_SECONDS:
                silent = False
                waited_for = ", ".join(f"worker {number} at {cluster.addresses[number]}" for number in missing)
                logging.getLogger("mulsupcon_tf").info("worker %d waits for %s", cluster.worker, waited_for)
            time.sleep(0.1)


def _listener(port: int) -> socket.socket:
    dual = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual)
    except OSError as error:
        raise InputError(
            f"The port of a worker in TF_CONFIG must be free on its machine. Received: port {port} ({error.strerror})"
        ) from error


def _answers(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")  # which are around an IPv6 address
    try:
        socket.create_connection((host, _port_of(address)), timeout=1).close()
    except (OSError, UnicodeError):  # a name that is not there yet, or none that can be
        return False
    return True
