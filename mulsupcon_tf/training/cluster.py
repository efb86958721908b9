"""The workers that train together, and which of them this process is, as TF_CONFIG says."""

import dataclasses
import json

from mulsupcon_tf.utils.errors import InputError

CHIEF_TYPES = ("chief", "master")  # a task of its own on Vertex AI and Kubeflow; "master" is the older name
WORKER_TYPE = "worker"


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
        InputError: it is not there or damaged, or this process is a task that does not train.
    """
    try:
        content = json.loads(text)
        tasks, own = content["cluster"], content["task"]
        kind, index = own["type"], int(own["index"])
        groups = {name: list(tasks.get(name, [])) for name in (*CHIEF_TYPES, WORKER_TYPE)}
        chiefs = [address for name in CHIEF_TYPES for address in groups[name]]
        addresses = (*chiefs, *groups[WORKER_TYPE])
        if not isinstance(kind, str) or not all(isinstance(address, str) and ":" in address for address in addresses):
            raise ValueError("no addresses")
        trains = kind in groups
        if len(chiefs) > 1 or (trains and not 0 <= index < len(groups[kind])):
            raise ValueError("no such task")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "--strategy=multiworker needs TF_CONFIG in the environment, for example "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}, or with '
            f'one "chief" beside the workers. Received: {text or "none"}'
        ) from error
    if not trains:
        raise InputError(
            "--strategy=multiworker trains on the tasks chief and worker of TF_CONFIG; start no others. "
            f"Received: task {kind!r}"
        )
    return Cluster(addresses, index + (len(chiefs) if kind == WORKER_TYPE else 0))
