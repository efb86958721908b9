import json

import keras
import numpy as np
import pytest

from mulsupcon_tf.models import replicas
from mulsupcon_tf.utils.choices import METHODS
from tests.helpers.forking import run_forked
from tests.helpers.two_replicas import EXCHANGES_ALL


def results_of(part):
    """What `two_replicas` finds in a process whose CPU is cut in two."""
    done = run_forked("tests.helpers.two_replicas", part, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def faults():
    return results_of("faults")


def assert_like_one_device(result, tolerance):
    assert result["distance"] < tolerance  # every variable: weights, statistics, moments, key side, queue
    assert result["spread"] == 0  # both replicas hold the same bits, the queue's too
    assert result["metrics"] < 2 * tolerance  # of numbers above 1 relative to them: losses are up to a hundred
    assert result["iterations"] == 10 - result["bad_steps"][0]
    assert result["movement"] > 0.1


def test_two_devices_train_like_one_on_the_same_batches():
    results = results_of("float32")
    assert set(results) == {EXCHANGES_ALL, "classifier"}
    for result in results.values():
        assert_like_one_device(result, 1e-6)


@pytest.mark.slow
def test_two_devices_train_like_one_by_the_other_methods():
    results = results_of("others in float32")
    assert set(results) == {*METHODS, "classifier"} - {EXCHANGES_ALL}
    for result in results.values():
        assert_like_one_device(result, 1e-6)


@pytest.mark.slow
def test_two_devices_train_like_one_in_bfloat16_and_in_the_other_modes():
    results = results_of("mixed_bfloat16")
    for name in ("linear probe", "anchors", "live", "negative", "printed"):  # in float32
        assert_like_one_device(results.pop(name), 1e-6)
    assert set(results) == {*METHODS, "classifier"}
    for result in results.values():
        # A gradient of bfloat16 is rounded on each device before the sum, by up to 0.4% (2**-8), and a weight that
        # differs then rounds some activations apart: keys of length 1 by up to 0.014 after ten steps.
        assert_like_one_device(result, 0.03)


def test_a_bad_share_skips_the_step_on_every_replica(faults):
    result = faults["bad_share"]
    assert result["bad_steps"] == [2, 2]
    assert_like_one_device(result, 1e-6)


def test_a_float16_overflow_on_the_second_replica_alone_changes_nothing_but_the_loss_scale(faults):
    assert faults["overflow"] == {"moved": 0, "bad_steps": 1, "scale": 0.5, "spread": 0}


def test_fit_and_evaluate_work_and_share_a_short_last_batch(faults):
    one, two = faults["short_batch"]
    np.testing.assert_allclose(two, one, rtol=1e-5)


def test_each_replica_draws_its_own_dropout_and_takes_it_back_after_a_bad_step(faults):
    before, after = (np.array(faults["dropout"][when]) for when in ("before", "after"))
    assert (before[:, 0, 0] != before[:, 1, 0]).all()
    np.testing.assert_array_equal(after[:, :, 0], before[:, :, 0])
    np.testing.assert_array_equal(after[:, :, 1], before[:, :, 1] + 1)  # of two steps one was bad


def test_the_classifier_that_is_judged_is_on_one_device_and_the_one_in_training_stays_on_both(faults):
    twin = faults["twin"]
    assert twin["synchronised"] == [[True], [False]]
    assert set(twin["copies"]) == {1}
    assert twin["distance"] == 0


def test_gradients_are_accumulated_on_each_replica(faults):
    assert_like_one_device(faults["parts of recovery"], 1e-6)


@pytest.fixture(scope="module")
def further_faults():
    return results_of("further faults")


@pytest.mark.slow
def test_so_they_are_where_no_distribution_is_recovered(further_faults):
    assert_like_one_device(further_faults["parts"], 1e-6)


@pytest.mark.slow
def test_so_they_are_where_each_part_is_normalised_by_itself(further_faults):
    assert further_faults["normalised_parts"]["spread"] == 0
    assert np.isfinite(list(further_faults["normalised_parts"]["losses"].values())).all()


@pytest.mark.slow
def test_a_pretraining_shares_a_short_last_batch_too(further_faults):
    one, two = further_faults["short_batch"]
    np.testing.assert_allclose(two, one, rtol=1e-5)


def test_batch_normalisation_within_a_layer_of_ones_own_is_synchronised_too(monkeypatch):
    class Own(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization()

        def call(self, inputs):
            return self.norm(inputs)

    monkeypatch.setattr(replicas, "num_replicas", lambda: 2)
    own, plain = Own(), keras.layers.BatchNormalization()
    replicas.synchronise_normalisation([keras.Sequential([keras.Input((3,)), own]), plain])
    assert own.norm.synchronized and plain.synchronized
