import json
import logging
import socket
import threading

import pytest

from mulsupcon_tf.training.cluster import Cluster, read_cluster, wait_for_all
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.two_workers import free_ports


def config(cluster, kind, index, **further):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}} | further)


WORKERS = {"worker": ["a:1", "b:1"]}
WITH_CHIEF = {"chief": ["c:1"], "worker": ["a:1", "b:1"]}
THREE = ("c:1", "a:1", "b:1")


@pytest.mark.parametrize(
    ("text", "addresses", "worker"),
    [
        (config(WORKERS, "worker", 1), ("a:1", "b:1"), 1),
        (config(WITH_CHIEF, "chief", 0), THREE, 0),
        (config(WITH_CHIEF, "worker", 0), THREE, 1),
        (config(WITH_CHIEF, "worker", 1), THREE, 2),
        (config({"chief": ["c:1"]}, "chief", 0), ("c:1",), 0),
        # Kubeflow: an index in quotes, the name of the environment, tasks of other kinds in the cluster
        (config({"master": ["c:1"], "worker": ["a:1"]}, "master", "0", environment="cloud"), ("c:1", "a:1"), 0),
        (config(WITH_CHIEF | {"ps": ["p:1"], "evaluator": ["e:1"]}, "worker", "1", environment="cloud"), THREE, 2),
        # Vertex AI
        (
            json.dumps(
                {
                    "cluster": {"chief": ["cmle-0:2222"], "worker": ["cmle-1:2222"]},
                    "environment": "cloud",
                    "job": '{"python_module": ""}',
                    "task": {"cloud": "ab", "index": 0, "trial": "1", "type": "worker"},
                }
            ),
            ("cmle-0:2222", "cmle-1:2222"),
            1,
        ),
    ],
)
def test_the_chief_is_the_first_of_the_workers(text, addresses, worker):
    assert read_cluster(text) == Cluster(addresses, worker)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        '{"cluster": [], "task": {}}',
        config(WORKERS, "worker", 2),
        config(WORKERS, "worker", -1),
        config(WORKERS, "chief", 0),
        config(WORKERS, "worker", None),
        config(WORKERS, "worker", "first"),
        config(WORKERS, None, 0),
        config({"worker": {"0": "a:1"}}, "worker", 0),
        config({"worker": [1, 2]}, "worker", 0),
        config({"chief": ["a:1", "b:1"]}, "chief", 0),
        config({"worker": None}, "worker", 0),
        config(WORKERS, "worker", 0.5),
        config(WORKERS, "worker", float("inf")),
        config({"worker": {"a:1": "b:1"}}, "worker", 0),
        config({"worker": ["a:x"]}, "worker", 0),
        config({"worker": ["a b:1"]}, "worker", 0),
        '{"sparseCluster": {"worker": {"0": "a:1"}}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_anything_else_is_refused_with_the_right_form(text):
    with pytest.raises(InputError) as caught:
        read_cluster(text)
    example, _, received = str(caught.value).partition("for example ")[2].partition(", or with one")
    assert read_cluster(example).addresses == ("host1:2222", "host2:2222")
    assert received.endswith(f"Received: {text or 'none'}") and "\n" not in received


@pytest.mark.parametrize(("text", "shown"), [("{\n}", "{ }"), ("[" * 100_000, "[" * 500)])
def test_a_long_value_is_shown_in_one_line_that_ends(text, shown):
    with pytest.raises(InputError) as caught:
        read_cluster(text)
    assert str(caught.value).endswith(f"Received: {shown}")


@pytest.mark.parametrize("kind", ["ps", "evaluator"])
def test_a_task_that_does_not_train_is_told_so(kind):
    with pytest.raises(
        InputError, match=rf"tasks chief and worker of TF_CONFIG; start no others\. Received: task '{kind}'"
    ):
        read_cluster(config(WITH_CHIEF | {kind: ["p:1"]}, kind, 0))


def test_no_two_workers_have_one_address():
    with pytest.raises(InputError, match=r"an address of its own\. Received: b:1 more than once"):
        read_cluster(config({"worker": ["a:1", "b:1", "b:1"]}, "worker", 0))


@pytest.mark.parametrize("address", ["a", "a:", "a:port", "a:0", "a:65536", ":"])
def test_an_address_ends_in_a_port(address):
    with pytest.raises(InputError, match="needs TF_CONFIG in the environment"):
        read_cluster(config({"worker": [address, "b:1"]}, "worker", 0))


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")])
def test_a_port_on_which_somebody_listens_is_refused_and_one_that_was_just_left_is_not(family, host):
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does
        listener.bind((host, 0))
        listener.listen()
        port = listener.getsockname()[1]
        cluster = Cluster((f"localhost:{port}",), 0)
        with pytest.raises(InputError, match=rf"must be free on its machine\. Received: port {port} \(Address already"):
            wait_for_all(cluster)
        with socket.create_connection(("localhost", port)) as client:
            connection, _ = listener.accept()
            connection.close()  # the side that closes first keeps the port for a minute
            client.recv(1)
    wait_for_all(cluster)


def test_workers_wait_for_each_other_and_say_for_whom(monkeypatch, caplog):
    monkeypatch.setattr("mulsupcon_tf.training.cluster.SILENT_SECONDS", 0)
    addresses = tuple(f"localhost:{port}" for port in free_ports(3))
    servers = []

    def join(worker):
        wait_for_all(Cluster(addresses, worker))
        servers.append(socket.create_server(("localhost", int(addresses[worker].rpartition(":")[2]))))  # as TensorFlow

    threads = [threading.Thread(target=join, args=(worker,), daemon=True) for worker in range(3)]
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        threads[0].start()
        threads[2].start()
        while len(caplog.messages) < 2:  # each says it once
            threads[0].join(0.01)
        assert all(each.is_alive() for each in (threads[0], threads[2]))
        threads[1].start()
        for each in threads:
            each.join(20)
    assert len(servers) == 3
    for each in servers:
        each.close()
    assert all(f"worker 1 at {addresses[1]}" in message for message in caplog.messages)
    assert {message.partition(" waits for ")[0] for message in caplog.messages} == {"worker 0", "worker 2"}
