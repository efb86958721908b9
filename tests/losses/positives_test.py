import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.losses.positives import (
    ContrastOfPositives,
    OwnKey,
    all_positives,
    any_positives,
    jaccard_positives,
)
from mulsupcon_tf.utils.errors import InputError
from tests.helpers import naive_losses as naive
from tests.helpers.losses_of_problems import gradients, losses, problem_for

METHODS = {
    "any": (ContrastOfPositives(any_positives), {}),
    "all": (ContrastOfPositives(all_positives), {}),
    "jaccard": (ContrastOfPositives(jaccard_positives), {}),
    "self": (OwnKey(), {}),
}
EACH = pytest.mark.parametrize("name", METHODS)


@pytest.mark.parametrize("hide", [False, True], ids=["all keys", "some hidden"])
@pytest.mark.parametrize("seed", range(3))
@EACH
def test_the_loss_is_the_naive_loop(name, seed, hide):
    method, settings = METHODS[name]
    problem = problem_for(name, seed, unlabelled=True)
    visible = np.arange(15) < 11 if hide else None
    got = losses(method, problem, key_mask=visible)
    expected = naive.losses_of(name, problem, visible=visible, **settings)
    assert got.keys() == expected.keys()
    for part, value in expected.items():
        np.testing.assert_allclose(got[part], value, rtol=1e-11, err_msg=part)


@EACH
def test_gradients_are_those_of_finite_differences(name):
    method, settings = METHODS[name]
    problem = problem_for(name, 4, unlabelled=True)
    visible = np.arange(15) != 8
    got = gradients(method, problem, by=("queries", "distributions"), key_mask=visible)
    expected = naive.central_differences(
        lambda queries: naive.losses_of(name, problem | {"queries": queries}, visible=visible, **settings)["loss"],
        problem["queries"],
    )
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(got["queries"], expected, atol=1e-7)
    assert got["distributions"] is None
    if name != "self":
        np.testing.assert_array_equal(got["queries"][1], 0.0)  # has no label


@EACH
def test_a_batch_without_labels_costs_nothing_but_where_none_is_read(name):
    method, _ = METHODS[name]
    problem = problem_for(name, 5)
    for each in ("labels", "distributions"):
        problem[each] = np.zeros((6, 4))
        problem[f"key_{each}"][:6] = 0.0
    rows = gradients(method, problem, by=("queries",), dtype="float32")["queries"]
    if name == "self":
        assert np.abs(rows).max() > 0.01
    else:
        assert float(losses(method, problem, dtype="float32")["loss"]) == 0.0
        np.testing.assert_array_equal(rows, 0.0)


def test_with_no_other_key_the_own_key_has_all_of_the_probability():
    problem = naive.random_problem(6, batch=1, queued=0)
    for name in ("any", "all", "jaccard", "self"):
        np.testing.assert_allclose(losses(METHODS[name][0], problem)["loss"], 0.0, atol=1e-12)


# Positives of one's own


def other_keys(labels, key_labels):
    """Keys that share no label: an anchor's own key is none of them."""
    return 1.0 - any_positives(labels, key_labels)


def test_the_mean_is_over_the_anchors_with_a_label_and_one_without_positives_counts_as_0():
    problem = naive.random_problem(7, batch=5, queued=3)
    problem["labels"][:] = problem["key_labels"][:] = [1, 0, 0, 0]
    problem["key_labels"][5:] = [0, 1, 0, 0]
    problem["labels"][0] = problem["key_labels"][0] = [1, 1, 1, 1]  # shares a label with every key
    positives = 1 - naive.positives_by(naive.share_a_label, problem["labels"], problem["key_labels"])
    assert not positives[0].any()
    expected = naive.supervised_contrastive(problem["queries"], problem["keys"], positives, temperature=0.1, number=5)
    method = ContrastOfPositives(other_keys)
    np.testing.assert_allclose(losses(method, problem)["loss"], expected, rtol=1e-12)
    np.testing.assert_array_equal(gradients(method, problem, by=("queries",))["queries"][0], 0.0)


@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_a_hidden_key_is_no_positive_whatever_a_function_says(temperature):
    """An empty slot has no labels, which one's own function may take for a reason."""
    problem = naive.random_problem(8, unlabelled=True)
    visible = np.arange(15) < 9
    problem["keys"][9:] = 30.0
    method = ContrastOfPositives(other_keys, temperature=temperature)
    positives = 1 - naive.positives_by(naive.share_a_label, problem["labels"], problem["key_labels"])
    positives[1] = 0  # has no label and is left out
    expected = naive.supervised_contrastive(
        problem["queries"], problem["keys"], positives, temperature=temperature, visible=visible, number=5
    )
    np.testing.assert_allclose(losses(method, problem, key_mask=visible)["loss"], expected, rtol=1e-11)
    np.testing.assert_array_equal(gradients(method, problem, by=("queries",), key_mask=visible)["queries"][1], 0.0)


def test_a_function_may_answer_with_truth_values():
    problem = naive.random_problem(9, unlabelled=True)
    method = ContrastOfPositives(lambda labels, key_labels: tf.matmul(labels, key_labels, transpose_b=True) > 0)
    expected = naive.losses_of("any", problem)["loss"]
    np.testing.assert_allclose(losses(method, problem)["loss"], expected, rtol=1e-11)


# Which keys are positives


def test_positives_by_hand():
    labels = np.array([[1, 1, 0], [0, 0, 0]])
    key_labels = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1], [0, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(any_positives(labels, key_labels), [[1, 1, 1, 0, 1, 0], [0] * 6])
    np.testing.assert_array_equal(all_positives(labels, key_labels), [[1, 0, 0, 0, 0, 0], [0] * 6])
    np.testing.assert_allclose(jaccard_positives(labels, key_labels), [[1, 0.5, 2 / 3, 0, 0, 0], [0] * 6])
    third = jaccard_positives(labels, key_labels, minimum=1 / 3)
    np.testing.assert_allclose(third, [[1, 0.5, 2 / 3, 0, 1 / 3, 0], [0] * 6])


@pytest.mark.parametrize("dtype", ["int32", "bool", "float32", "bfloat16"])
def test_positives_are_float32_for_labels_of_any_kind(dtype):
    problem = naive.random_problem(9)
    labels, key_labels = (tf.cast(problem[name], dtype) for name in ("labels", "key_labels"))
    for function in (any_positives, all_positives, jaccard_positives):
        assert function(labels, key_labels).dtype == "float32"


@pytest.mark.parametrize("seed", range(3))
def test_positives_are_the_rules_on_label_sets(seed):
    problem = naive.random_problem(seed, queued=40, labels=6, unlabelled=True)
    labels, key_labels = problem["labels"], problem["key_labels"]
    for got, rule in [
        (any_positives(labels, key_labels), naive.share_a_label),
        (all_positives(labels, key_labels), naive.have_the_same_labels),
        (jaccard_positives(labels, key_labels), naive.jaccard_of_at_least(0.5)),
        (jaccard_positives(labels, key_labels, minimum=0.2), naive.jaccard_of_at_least(0.2)),
    ]:
        np.testing.assert_allclose(got, naive.positives_by(rule, labels, key_labels), rtol=1e-12)


@pytest.mark.parametrize("size", [3, 7, 49])
def test_equal_label_sets_are_found_in_float32_whatever_their_size(size):
    labels = (np.random.default_rng(size).permuted(np.tile(np.arange(100) < size, (20, 1)), axis=1)).astype(np.float32)
    np.testing.assert_array_equal(all_positives(labels, labels), np.eye(20))


# Settings


@pytest.mark.parametrize(
    "method",
    [
        ContrastOfPositives(jaccard_positives, temperature=0.3),
        OwnKey(temperature=0.3),
    ],
    ids=["positives", "own key"],
)
def test_settings_survive_saving(method):
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(method))
    assert type(twin) is type(method)
    assert vars(twin) == vars(method)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: jaccard_positives(np.eye(2), np.eye(2), minimum=0.0),
            "minimum must lie in (0, 1]. Received: minimum=0.0",
        ),
        (
            lambda: jaccard_positives(np.eye(2), np.eye(2), minimum=1.5),
            "minimum must lie in (0, 1]. Received: minimum=1.5",
        ),
        (lambda: OwnKey(temperature=-1.0), "temperature must be above 0. Received: temperature=-1.0"),
        (
            lambda: any_positives(np.eye(2), np.eye(3)),
            "key_labels [K, C] and labels must agree on C. Received: C=3 in key_labels, C=2 in labels",
        ),
    ],
)
def test_wrong_use_is_one_line(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message
