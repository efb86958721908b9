import keras
import numpy as np
import pytest

from mulsupcon_tf.losses.mulsupcon import MulSupCon
from mulsupcon_tf.utils.errors import InputError
from tests.helpers import naive_losses as naive
from tests.helpers.losses_of_problems import gradients, losses

AVERAGES = pytest.mark.parametrize("average", ["pair", "anchor"])


def naive_loss(problem, average, temperature=0.1, visible=None):
    return naive.losses_of("mulsupcon", problem, average=average, temperature=temperature, visible=visible)["loss"]


@pytest.mark.parametrize("temperature", [0.1, 0.01, 1.0])
@pytest.mark.parametrize("hide", [False, True], ids=["all keys", "some hidden"])
@pytest.mark.parametrize("seed", range(3))
@AVERAGES
def test_the_loss_is_the_row_expansion(average, seed, hide, temperature):
    problem = naive.random_problem(seed, unlabelled=True)
    visible = np.arange(15) < 11 if hide else None
    got = losses(MulSupCon(average=average, temperature=temperature), problem, key_mask=visible)
    expected = naive_loss(problem, average, temperature, visible)
    np.testing.assert_allclose([got["loss"], got["contrastive_loss"]], expected, rtol=1e-11)


def test_the_two_averages_differ_where_anchors_have_different_numbers_of_labels():
    problem = naive.random_problem(3)
    assert len(set(problem["labels"].sum(1))) > 1
    one, other = (float(losses(MulSupCon(average=average), problem)["loss"]) for average in ("pair", "anchor"))
    assert abs(one - other) > 1e-3
    alike = naive.random_problem(3, single_label=True)
    one, other = (float(losses(MulSupCon(average=average), alike)["loss"]) for average in ("pair", "anchor"))
    assert one == pytest.approx(other, rel=1e-12)


@AVERAGES
def test_two_orthogonal_keys_in_closed_form(average):
    # One label each; the anchor is its own key: −log(e^(1/τ) / (e^(1/τ) + 1)).
    one = np.eye(2)
    problem = {"queries": one, "keys": one, "labels": one, "key_labels": one}
    got = losses(MulSupCon(temperature=0.5, average=average), problem)["loss"]
    np.testing.assert_allclose(got, np.log1p(np.exp(-2.0)), rtol=1e-12)


@AVERAGES
def test_gradients_are_those_of_finite_differences(average):
    problem = naive.random_problem(4, unlabelled=True)
    visible = np.arange(15) != 8
    got = gradients(MulSupCon(average=average), problem, by=("queries",), key_mask=visible)["queries"]
    expected = naive.central_differences(
        lambda queries: naive_loss(problem | {"queries": queries}, average, visible=visible), problem["queries"]
    )
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(got, expected, atol=1e-7)
    np.testing.assert_array_equal(got[1], 0.0)  # has no label


@AVERAGES
def test_the_settings_survive_saving(average):
    method = MulSupCon(temperature=0.3, average=average)
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(method))
    assert type(twin) is MulSupCon
    assert vars(twin) == vars(method) == {"temperature": 0.3, "average": average}


def test_an_unknown_average_is_refused():
    with pytest.raises(InputError) as error:
        MulSupCon(average="label")
    assert str(error.value) == "average must be one of pair, anchor. Received: average=label"
