import sys
import textwrap
import time
import types

import pytest

from mulsupcon_tf.utils.errors import InputError
from tools.benchmarks import peer as benchmark_peer
from tools.benchmarks import vectors as benchmark_vectors
from tools.benchmarks import worker as benchmark_worker


@pytest.fixture
def busy(tmp_path, monkeypatch):
    """A worker module on the path, with a step that works and one that only waits."""
    (tmp_path / "busy_worker.py").write_text(
        textwrap.dedent("""
        import time
        from tools.benchmarks.worker import serve

        def work():
            end = time.process_time() + 0.05
            while time.process_time() < end:
                pass
            print("a library says something")

        serve({"works": work, "waits": lambda: time.sleep(0.05)}, lambda name: 3.5)
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "busy_worker"


def test_a_worker_runs_its_steps_on_demand_and_counts_wall_and_processor_time(busy):
    with benchmark_worker.Worker(sys.executable, busy, (), cores=1) as worker:
        assert worker.names == ["works", "waits"]
        works, waits = worker.run("works", 0.2), worker.run("waits", 0.2)
        assert worker.extra_memory("works") == 3.5
    assert 0.04 <= works["cpu_seconds"] / works["steps"] <= 0.1
    assert waits["seconds"] / waits["steps"] >= 0.05 and waits["cpu_seconds"] < 0.1


def test_a_worker_that_ends_is_an_error(busy):
    with pytest.raises(RuntimeError, match="ended"):
        benchmark_worker.Worker("/bin/true", busy, ())


@pytest.mark.parametrize(
    ("peer", "message"), [(None, "needs --peer=DIR"), ("nowhere", "must be a checkout of MulSupCon")]
)
def test_without_a_checkout_it_says_what_is_needed(tmp_path, peer, message):
    settings = types.SimpleNamespace(peer=peer and tmp_path / peer, peer_python=None, workdir=tmp_path)
    with pytest.raises(InputError, match=message):
        list(benchmark_peer.measure(settings))


@pytest.mark.slow
def test_steps_are_counted_in_a_real_run(tmp_path, shared_data, monkeypatch):
    monkeypatch.setattr(benchmark_vectors, "WINDOW", 0.2)
    settings = types.SimpleNamespace(repeats=2, workdir=tmp_path, data_dir=str(shared_data / "mulan"))
    start = time.perf_counter()
    wall, worked = benchmark_vectors.measure(settings, [("yeast", 256)], cores=(1,))
    assert wall.unit == "steps/s" and len(wall.values) == 2 == len(worked.values)
    assert all(value * (time.perf_counter() - start) > 18 for value in wall.values)  # an epoch has 18 steps
    assert not list((tmp_path / "runs").iterdir())
