import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.losses.keys import Anchors
from mulsupcon_tf.losses.method import count
from mulsupcon_tf.losses.mulsupconld import CLD, RLD, KeysByDistribution
from mulsupcon_tf.utils.errors import InputError
from tests.helpers import naive_losses as naive
from tests.helpers.losses_of_problems import (
    CASES,
    anchors_and_block,
    gradients,
    losses,
    naive_losses,
    name_of,
    problem_for,
    tensors_of,
)

PARTS = ("contrastive_loss", "similarity_loss", "alignment_loss", "recovery_loss", "loss")
RECOVERING = pytest.mark.parametrize("case", [case for case in CASES if case[0] in ("cld", "rld")], ids=name_of)
BY = {"cld": CLD, "rld": RLD}


def built(case, **settings):
    return BY[case[0]](**case[1] | settings)


# Each equation against the naive loops


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("hide", [False, True], ids=["all keys", "some hidden"])
@pytest.mark.parametrize("seed", range(3))
@RECOVERING
def test_every_term_is_the_naive_loop(case, seed, hide, temperature):
    problem = naive.random_problem(seed, unlabelled=True)
    visible = np.arange(15) < 11 if hide else None
    got = losses(built(case, temperature=temperature), problem, key_mask=visible)
    expected = naive_losses(case, problem, temperature=temperature, visible=visible)
    assert got.keys() == expected.keys() == set(PARTS)
    for name in PARTS:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-11, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_the_truth_is_the_naive_loop(seed):
    problem = problem_for("truth", seed, unlabelled=True)
    got = losses(KeysByDistribution(), problem)
    expected = naive.losses_of("truth", problem)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-11, err_msg=name)


@pytest.mark.parametrize("part", [*PARTS[:3], "loss"])
@RECOVERING
def test_gradients_are_those_of_finite_differences(case, part):
    problem = naive.random_problem(7, batch=4, queued=5, unlabelled=True)
    visible = np.arange(9) != 6
    got = gradients(built(case), problem, part, key_mask=visible)
    for variable in ("queries", "distributions", "kernel"):
        expected = naive.central_differences(
            lambda point, variable=variable: naive_losses(case, problem | {variable: point}, visible=visible)[part],
            problem[variable],
        )
        if got[variable] is None:
            np.testing.assert_allclose(expected, 0, atol=1e-9, err_msg=variable)
        else:
            assert np.abs(expected).max() > 1e-3 or (got[variable] == 0).all()
            np.testing.assert_allclose(got[variable], expected, rtol=1e-6, atol=1e-7, err_msg=variable)


def test_which_terms_have_a_gradient_by_what():
    """By z, d and W. A constant own distribution leaves (12) without a gradient by d; (8) has none by z."""
    problem = naive.random_problem(8)
    moves = {}
    for own in ("constant", "live"):
        for part in (*PARTS[:3], "loss"):
            found = gradients(CLD(own_distribution=own), problem, part)
            moves[own, part] = [each is not None and bool(np.abs(each).max() > 1e-6) for each in found.values()]
    assert moves == {
        ("constant", "contrastive_loss"): [True, False, False],
        ("live", "contrastive_loss"): [True, True, False],
        ("constant", "similarity_loss"): [True, True, False],
        ("live", "similarity_loss"): [True, True, False],
        ("constant", "alignment_loss"): [False, True, False],
        ("live", "alignment_loss"): [False, True, False],
        ("constant", "loss"): [True, True, True],
        ("live", "loss"): [True, True, True],
    }


@RECOVERING
def test_the_gradient_reaches_the_layer_that_makes_the_distributions(case):
    """By W and b where d = softmax(r W + b): through d, and for W through (9)'s norm."""
    problem = naive.random_problem(9, batch=4, queued=5, features=3)
    features, bias = np.random.default_rng(0).normal(size=(4, 3)), np.random.default_rng(1).normal(size=4)
    start = naive.softmax(features @ problem["kernel"] + bias)
    problem["distributions"] = problem["key_distributions"][:4] = start

    def loss_at(kernel, bias):
        distributions = naive.softmax(features @ kernel + bias)
        return naive_losses(case, problem | {"distributions": distributions, "kernel": kernel})["loss"]

    kernel, offset = tf.constant(problem["kernel"]), tf.constant(bias)
    with tf.GradientTape() as tape:
        tape.watch([kernel, offset])
        distributions = tf.nn.softmax(tf.matmul(tf.constant(features), kernel) + offset)
        loss = losses(built(case), problem | {"distributions": distributions, "kernel": kernel})["loss"]
    by_kernel, by_bias = tape.gradient(loss, [kernel, offset])
    expected = naive.central_differences(lambda point: loss_at(point, bias), problem["kernel"])
    np.testing.assert_allclose(by_kernel, expected, rtol=1e-6, atol=1e-7)
    expected = naive.central_differences(lambda point: loss_at(problem["kernel"], point), bias)
    np.testing.assert_allclose(by_bias, expected, rtol=1e-6, atol=1e-7)


# Closed forms


def test_one_anchor_and_one_other_key_by_hand():
    # Both keys are orthogonal to the anchor, so each has a probability of a half.
    problem = {
        "queries": [[1.0, 0.0, 0.0]],
        "keys": [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        "labels": [[1, 1, 0]],
        "key_labels": [[1, 1, 0], [0, 1, 1]],
        "distributions": [[0.5, 0.3, 0.2]],
        "key_distributions": [[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]],
        "kernel": [[3.0, 4.0, 0.0]],
    }
    problem = {name: np.array(value, float) for name, value in problem.items()}
    half = np.log(2)
    contrast = (0.5 + 0.3) * half + 0.6 * half
    distance = 0.4**2 + 0.3**2 + 0.1**2
    alignment = (0.5**2 + 0.7**2 + 0.2**2) + (0.1**2 + 0.4**2 + 0.7**2)
    for kernel, similarity in (("negative", half), ("softmax", 0.5), ("printed", -half)):
        got = losses(CLD(cld_kernel=kernel, alpha=0.5, beta=0.01), problem)
        recovery = similarity * distance + 0.5 * alignment + 0.01 * 25
        expected = (contrast, similarity * distance, alignment, recovery, contrast + recovery)
        np.testing.assert_allclose([got[name] for name in PARTS], expected, rtol=1e-12, err_msg=kernel)
    got = losses(RLD(rbf_sigma=2.0), problem)["similarity_loss"]
    np.testing.assert_allclose(got, np.exp(-2 / (2 * 4)) * distance, rtol=1e-12)  # ‖z − k‖² = 2


@pytest.mark.parametrize("case", [("cld", {}), ("rld", {}), ("truth", {})], ids=name_of)
def test_one_label_with_all_of_the_mass_gives_supcon_times_the_number_of_positives(case):
    problem = naive.random_problem(10, single_label=True)
    problem |= {"distributions": problem["labels"], "key_distributions": problem["key_labels"]}
    positives = naive.positives_by(naive.share_a_label, problem["labels"], problem["key_labels"])
    assert len(set(positives.sum(1))) > 1
    expected = np.mean(
        [
            positives[i].sum()
            * naive.supervised_contrastive(problem["queries"][[i]], problem["keys"], positives[[i]], temperature=0.1)
            for i in range(6)
        ]
    )
    method = {**BY, "truth": KeysByDistribution}[case[0]]()
    np.testing.assert_allclose(losses(method, problem)["contrastive_loss"], expected, rtol=1e-12)


def test_at_the_published_width_the_kernel_of_rld_is_0_below_a_cosine_of_0_9896():
    """So that G vanishes between all but nearly equal embeddings, as its gradient does."""
    problem = naive.random_problem(11, batch=3, queued=40)
    cosines = np.linspace(-1, 0.9896, 37)
    problem["queries"] = np.eye(5)[[0, 0, 0]]
    problem["keys"][6:] = np.stack([cosines, np.sqrt(1 - cosines**2), *np.zeros((3, 37))], axis=1)
    problem["key_labels"][:] = problem["labels"][:] = 1
    float32 = {name: array.astype(np.float32) for name, array in problem.items()}
    cosines = float32["queries"] @ float32["keys"][3:].T
    assert 0.98 < cosines.max() < 0.98961
    assert losses(RLD(), float32, dtype="float32")["similarity_loss"].numpy() == 0.0
    found = gradients(RLD(), problem, "similarity_loss", dtype="float32")
    np.testing.assert_array_equal(found["queries"], 0)
    np.testing.assert_array_equal(found["distributions"], 0)
    # A wider kernel sees something, and so does this one a little nearer.
    assert losses(RLD(rbf_sigma=0.5), float32, dtype="float32")["similarity_loss"].numpy() > 0.1
    near = problem["keys"].copy()
    near[6] = [0.9999, np.sqrt(1 - 0.9999**2), 0, 0, 0]
    assert losses(RLD(), problem | {"keys": near})["similarity_loss"].numpy() > 1e-3


@pytest.mark.parametrize("number", [20, 60])
def test_the_printed_kernel_drives_distributions_apart_and_the_others_do_not(number):
    """Gradient descent on W with d = softmax(r W), as in training: embeddings stand still, α and β are 0.

    As printed, G falls from step to step, the lower the more keys there are, and W grows; else G goes to 0.
    """
    problem = naive.random_problem(12, batch=number, queued=0)
    features = np.random.default_rng(12).normal(size=(number, 8))

    def descend(kernel_of_cld):
        method = CLD(cld_kernel=kernel_of_cld, alpha=0.0, beta=0.0)
        kernel = tf.Variable(0.1 * np.random.default_rng(0).normal(size=(8, 4)))

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                made = tf.nn.softmax(tf.matmul(features, kernel))
                values = problem | {"distributions": made, "key_distributions": tf.stop_gradient(made)}
                similarity = losses(method, values)["similarity_loss"]
            kernel.assign_sub(0.02 * tape.gradient(similarity, kernel))
            return similarity

        return np.array([float(step()) for _ in range(200)]), float(tf.norm(kernel))

    printed, size = descend("printed")
    assert (np.diff(printed[::20]) < 0).all()
    assert printed[-1] < 50 * printed[0] < 0
    assert printed[-1] < -8 * number
    for other in ("negative", "softmax"):
        similarities, other_size = descend(other)
        assert similarities.min() > -1e-12
        assert similarities[-1] < 0.9 * similarities[0]
        assert other_size < size / 20


# Gradients that must be exactly 0


@RECOVERING
def test_an_anchor_without_labels_has_no_loss_and_exactly_no_gradient(case):
    problem = naive.random_problem(14)
    problem["labels"][2] = problem["key_labels"][2] = 0.0
    method = built(case, beta=0.0)
    for part in PARTS:
        for name, rows in gradients(method, problem, part, by=("queries", "distributions")).items():
            if rows is not None:
                np.testing.assert_array_equal(rows[2], 0.0, err_msg=f"{part} by {name}")
    anchors, block = anchors_and_block(problem)
    alone = Anchors(*(rows[2:3] for rows in anchors[:4]), anchors.kernel)
    found = method.losses(alone, method.of_keys(alone)(block), count(anchors.labels))
    assert {float(value) for value in found.values()} == {0.0}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@RECOVERING
def test_a_batch_without_labels_costs_nothing_but_the_norm(case, dtype):
    problem = naive.random_problem(15)
    problem["labels"] = problem["key_labels"][:6] = np.zeros((6, 4))
    got = losses(built(case), problem, dtype=dtype)
    penalty = 0.02 * (problem["kernel"] ** 2).sum()
    assert {name: float(got[name]) for name in PARTS[:3]} == dict.fromkeys(PARTS[:3], 0.0)
    np.testing.assert_allclose([got["recovery_loss"], got["loss"]], penalty, rtol=1e-6)
    for rows in gradients(built(case), problem, by=("queries", "distributions"), dtype=dtype).values():
        np.testing.assert_array_equal(rows, 0.0)


@RECOVERING
def test_the_norm_is_left_out_where_there_is_no_layer(case):
    problem = naive.random_problem(16)
    without = {name: value for name, value in problem.items() if name != "kernel"}
    expected = naive_losses(case, problem | {"kernel": np.zeros((3, 4))})
    np.testing.assert_allclose(losses(built(case), without)["loss"], expected["loss"], rtol=1e-11)


# Precision


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@RECOVERING
def test_low_precision_inputs_are_computed_in_float32(case, dtype):
    problem = naive.random_problem(17, queued=100, labels=8)
    low = {name: tf.cast(value, dtype) for name, value in tensors_of(problem).items()}
    # The loops see the rounded inputs, so that only the arithmetic differs; but unit rows stay such.
    rounded = {name: tf.cast(value, "float64").numpy() for name, value in low.items()}
    rows = {name: problem[name].astype(np.float32) for name in ("queries", "keys")}
    got, expected = losses(built(case), low | rows, dtype="float32"), naive_losses(case, rounded | rows)
    for name in PARTS:
        assert got[name].dtype == "float32", name
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=5e-5, err_msg=name)
    assert {value.dtype for value in losses(built(case), low).values()} == {tf.float32}


@RECOVERING
def test_extreme_distributions_have_finite_losses_and_gradients(case):
    problem = naive.random_problem(18)
    extreme = tf.nn.softmax(tf.constant(200 * np.random.default_rng(0).normal(size=(15, 4)), "float32")).numpy()
    assert (extreme == 0).any()
    problem |= {"key_distributions": extreme, "distributions": extreme[:6]}
    assert all(np.isfinite(value) for value in losses(built(case), problem, dtype="float32").values())
    for rows in gradients(built(case), problem, dtype="float32").values():
        assert np.isfinite(rows).all()


# Settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: CLD(cld_kernel="rbf"),
            "cld_kernel must be one of softmax, negative, printed. Received: cld_kernel=rbf",
        ),
        (lambda: CLD(alpha=-0.1), "alpha must be at least 0. Received: alpha=-0.1"),
        (lambda: RLD(beta=float("nan")), "beta must be at least 0. Received: beta=nan"),
        (
            lambda: RLD(own_distribution="dead"),
            "own_distribution must be one of constant, live. Received: own_distribution=dead",
        ),
        (lambda: RLD(rbf_sigma=0), "rbf_sigma must be above 0. Received: rbf_sigma=0"),
        (lambda: KeysByDistribution(temperature=0.0), "temperature must be above 0. Received: temperature=0.0"),
    ],
)
def test_a_wrong_setting_is_refused(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message


@pytest.mark.parametrize(
    "method",
    [
        CLD(cld_kernel="negative", temperature=0.3, alpha=0.1, beta=0.01, own_distribution="live"),
        RLD(rbf_sigma=0.2, temperature=0.3, alpha=0.1, beta=0.01, own_distribution="live"),
        KeysByDistribution(temperature=0.3),
    ],
    ids=["cld", "rld", "truth"],
)
def test_settings_survive_saving(method):
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(method))
    assert type(twin) is type(method)
    assert vars(twin) == vars(method)
