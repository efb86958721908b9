import types

import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.utils.choices import METHODS
from tools.benchmarks import loss as benchmark_loss
from tools.benchmarks import scaling as benchmark_scaling

TINY = benchmark_loss.Size(batch=8, keys=40, width=4, labels=3)


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(benchmark_loss, "SECONDS", 0.001)


def test_each_method_has_a_time_a_ratio_its_memory_and_a_share_of_the_machine(monkeypatch):
    monkeypatch.setattr(benchmark_loss, "SQUARE", 64)
    found = list(benchmark_loss.measure(types.SimpleNamespace(repeats=2), [TINY]))
    units = {(one.name.split(",")[0], one.unit) for one in found}
    for method in METHODS:
        assert {(method, unit) for unit in ("ms", "x bare product", "MiB", "of the matmul rate")} <= units
    assert all(min(one.values) > 0 for one in found if one.unit != "MiB")
    assert all(len(one.values) == 2 for one in found if one.unit == "ms")


def test_the_operations_of_the_bare_product_are_those_of_its_two_matrix_products():
    size = benchmark_loss.Size(batch=2, keys=3, width=5, labels=7)
    assert size.operations("") == 2 * (2 * 3 * 5) * 2
    assert size.operations("mulsupcon") == size.operations("") + 2 * 7 * 3 * 5


def test_the_bare_product_is_the_similarities_and_a_gradient_of_the_queries():
    rng = np.random.default_rng(0)
    queries, keys = (benchmark_loss._unit_rows(rng, rows, TINY.width) for rows in (TINY.batch, TINY.keys))
    np.testing.assert_allclose(benchmark_loss.bare_product(TINY)(), queries @ keys.T @ keys, rtol=1e-4, atol=1e-5)


def test_extra_memory_is_what_a_step_allocates_at_its_peak():
    rows = tf.ones((1 << 20, 1))  # a product of 64 MiB, summed
    step = tf.function(lambda: tf.reduce_sum(tf.matmul(rows, tf.ones((1, 16)))))
    assert 60 <= benchmark_loss.extra_memory(step) <= 140


@pytest.mark.slow
def test_scaling_draws_a_panel_for_each_size_that_grows(tmp_path):
    settings = types.SimpleNamespace(repeats=1, workdir=tmp_path)
    found = list(benchmark_scaling.measure(settings, TINY, {"keys": (16, 40), "batch": (4, 8)}))
    assert len(found) == 3 * 4
    assert (tmp_path / "scaling.svg").read_text().count('<g id="axes_') == 2
