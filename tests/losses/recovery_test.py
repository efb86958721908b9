import numpy as np
import pytest
import tensorflow as tf
from mulsupcon_tf.losses.contrastive import recovery, uniform_label_weights

from mulsupcon_tf.utils.errors import InputError
from tests.helpers import naive_losses as naive


def gradient(function, point):
    variable = tf.Variable(point)
    with tf.GradientTape() as tape:
        loss = function(variable)
    return tape.gradient(loss, variable).numpy()


def cosines(problem):
    return problem["queries"] @ problem["keys"].T


def cld(problem, distributions=None, **options):
    return recovery.contrastive_similarity_loss(
        problem["distributions"] if distributions is None else distributions,
        problem["key_distributions"],
        problem["labels"],
        problem["key_labels"],
        **options,
    )


def rld(problem, distributions=None, **options):
    return recovery.rbf_similarity_loss(
        problem["distributions"] if distributions is None else distributions,
        problem["key_distributions"],
        cosines(problem),
        problem["labels"],
        problem["key_labels"],
        **options,
    )


def naive_cld(problem, distributions=None, temperature=0.5, visible=None):
    return naive.contrastive_similarity(
        problem["distributions"] if distributions is None else distributions,
        problem["key_distributions"],
        problem["labels"],
        problem["key_labels"],
        temperature=temperature,
        visible=visible,
    )


def naive_rld(problem, distributions=None, sigma=0.01, visible=None):
    return naive.rbf_similarity(
        problem["distributions"] if distributions is None else distributions,
        problem["key_distributions"],
        problem["labels"],
        problem["key_labels"],
        queries=problem["queries"],
        keys=problem["keys"],
        sigma=sigma,
        visible=visible,
    )


BOTH = pytest.mark.parametrize(("loss", "naive_loss"), [(cld, naive_cld), (rld, naive_rld)], ids=["cld", "rld"])


# The label weights


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5, 1.0])
def test_label_weights_are_the_naive_loop(rho):
    problem = naive.random_problem(0, unlabelled=True)
    got = recovery.label_weights(problem["distributions"], problem["labels"], rho=rho).numpy()
    expected = naive.label_weights(problem["distributions"], problem["labels"], rho)
    np.testing.assert_allclose(got, expected, rtol=1e-11)


def test_label_weights_by_hand():
    got = recovery.label_weights([[0.6, 0.2, 0.2], [0.1, 0.8, 0.1]], [[1, 1, 0], [0, 0, 0]])
    # d̂ = (0.25 + 0.3, 0.25 + 0.1) of a total of 0.9.
    np.testing.assert_allclose(got, [[0.55 / 0.9, 0.35 / 0.9, 0.0], [0.0, 0.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_label_weights_keep_their_sums_and_zeros_for_extreme_logits(rho, dtype):
    rng = np.random.default_rng(2)
    logits = tf.constant(50.0 * rng.normal(size=(500, 6)), "float32")
    labels = (rng.random((500, 6)) < 0.4).astype("float32")
    labels[0] = 0.0
    distributions = tf.cast(tf.nn.softmax(logits), dtype)
    weights = recovery.label_weights(distributions, labels, rho=rho).numpy()
    assert (tf.reduce_sum(distributions * tf.cast(labels, dtype), axis=1)[1:].numpy() == 0).any()  # no mass at all
    np.testing.assert_array_equal(weights[labels == 0], 0.0)
    np.testing.assert_allclose(weights.sum(axis=1), labels.any(axis=1), atol=1e-6)
    assert (weights >= 0).all()
    if rho < 1:
        assert (weights[labels == 1] > 0).all()


def test_distributions_uniform_over_the_labels_give_uniform_weights():
    labels = naive.random_problem(1, unlabelled=True)["labels"]
    uniform = naive.uniform_weights(labels)
    for rho in (0.0, 0.5, 1.0):
        np.testing.assert_allclose(recovery.label_weights(uniform, labels, rho=rho), uniform, rtol=1e-11)
    # So does the zero-initialised head, whose distributions are uniform over all labels.
    np.testing.assert_allclose(recovery.label_weights(np.full(labels.shape, 0.25), labels), uniform, rtol=1e-11)
    np.testing.assert_allclose(uniform_label_weights(labels), uniform, rtol=1e-12)


def test_no_gradient_flows_through_the_label_weights():
    distributions = tf.Variable([[0.6, 0.4]])
    with tf.GradientTape() as tape:
        weight = recovery.label_weights(distributions, [[1.0, 1.0]])[0, 0]
    assert tape.gradient(weight, distributions) is None


# The recovery losses


@pytest.mark.parametrize("seed", range(3))
def test_alignment_is_the_naive_loop(seed):
    problem = naive.random_problem(seed, unlabelled=True)
    got = recovery.alignment_loss(problem["distributions"], problem["labels"])
    np.testing.assert_allclose(got, naive.alignment(problem["distributions"], problem["labels"]), rtol=1e-12)


def test_alignment_by_hand():
    got = recovery.alignment_loss([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]], [[1, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(got, 0.25**2 + 0.25**2, rtol=1e-6)


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("seed", range(3))
@BOTH
def test_similarity_losses_are_the_naive_loops(loss, naive_loss, seed, hide):
    problem = naive.random_problem(seed, unlabelled=True)
    visible = np.arange(15) < 9 if hide else None
    np.testing.assert_allclose(loss(problem, key_mask=visible), naive_loss(problem, visible=visible), rtol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_cld_at_other_temperatures(temperature):
    problem = naive.random_problem(3)
    expected = naive_cld(problem, temperature=temperature)
    np.testing.assert_allclose(cld(problem, temperature=temperature), expected, rtol=1e-12)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 3.0])
def test_rld_at_other_kernel_widths(sigma):
    problem = naive.random_problem(4)
    np.testing.assert_allclose(rld(problem, sigma=sigma), naive_rld(problem, sigma=sigma), rtol=1e-12)


def test_a_wide_kernel_is_the_mean_and_a_narrow_one_the_nearest_positive():
    distributions = np.array([[1.0, 0.0]])
    keys = {"key_distributions": np.array([[0.5, 0.5], [0.0, 1.0], [1.0, 0.0]]), "similarities": [[0.9, 0.8, 0.99]]}
    labels = {"labels": [[1, 0]], "key_labels": [[1, 0], [1, 1], [0, 1]]}  # the last key is the nearest, no positive
    wide = recovery.rbf_similarity_loss(distributions, **keys, **labels, sigma=1e4)
    np.testing.assert_allclose(wide, (0.5 + 2.0) / 2, rtol=1e-6)
    narrow = recovery.rbf_similarity_loss(distributions, **keys, **labels, sigma=0.01)
    np.testing.assert_allclose(narrow, 0.5, rtol=1e-12)


@BOTH
def test_the_order_of_labels_and_of_keys_does_not_matter(loss, naive_loss):
    problem = naive.random_problem(5, unlabelled=True)
    expected = naive_loss(problem)
    label_order, key_order = np.array([2, 0, 3, 1]), np.random.default_rng(0).permutation(15)
    by_label = {
        name: problem[name][:, label_order] for name in ("distributions", "key_distributions", "labels", "key_labels")
    }
    np.testing.assert_allclose(loss({**problem, **by_label}), expected, rtol=1e-10)
    by_key = {name: problem[name][key_order] for name in ("keys", "key_distributions", "key_labels")}
    np.testing.assert_allclose(loss({**problem, **by_key}), expected, rtol=1e-10)


@pytest.mark.parametrize("filled", [6, 11], ids=["own keys only", "half a queue"])
@BOTH
def test_a_filled_prefix_is_a_masked_full_queue(loss, naive_loss, filled):
    problem = naive.random_problem(6)
    full = {**problem, **{name: problem[name].copy() for name in ("keys", "key_distributions", "key_labels")}}
    full["keys"][filled:] = 100.0 * full["queries"][0]  # what an unfilled slot holds must not matter
    full["key_distributions"][filled:] = 0.0
    full["key_labels"][filled:] = 1.0
    prefix = {**problem, **{name: problem[name][:filled] for name in ("keys", "key_distributions", "key_labels")}}
    np.testing.assert_allclose(loss(full, key_mask=np.arange(15) < filled), naive_loss(prefix), rtol=1e-10)


# Gradients


@BOTH
def test_gradients_are_those_of_finite_differences(loss, naive_loss):
    problem = naive.random_problem(7, unlabelled=True)
    visible = np.arange(15) != 8
    got = gradient(lambda d: loss(problem, d, key_mask=visible), problem["distributions"])
    expected = naive.central_differences(lambda d: naive_loss(problem, d, visible=visible), problem["distributions"])
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_gradient_of_alignment_is_that_of_finite_differences():
    problem = naive.random_problem(8, unlabelled=True)
    got = gradient(lambda d: recovery.alignment_loss(d, problem["labels"]), problem["distributions"])
    expected = naive.central_differences(lambda d: naive.alignment(d, problem["labels"]), problem["distributions"])
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_no_gradient_flows_into_keys_and_similarities():
    problem = naive.random_problem(9)
    distributions = tf.Variable(problem["distributions"])
    keys, similarities = tf.Variable(problem["key_distributions"]), tf.Variable(cosines(problem))
    labels = (problem["labels"], problem["key_labels"])
    with tf.GradientTape(persistent=True) as tape:
        first = recovery.contrastive_similarity_loss(distributions, keys, *labels)
        second = recovery.rbf_similarity_loss(distributions, keys, similarities, *labels)
    for loss in (first, second):
        assert tape.gradient(loss, keys) is None
        assert tape.gradient(loss, similarities) is None
        assert np.abs(tape.gradient(loss, distributions)).max() > 0


@pytest.mark.parametrize("key_mask", [None, np.arange(15) < 6])
@pytest.mark.parametrize("loss", [cld, rld])
def test_an_unlabelled_anchor_has_a_zero_gradient(loss, key_mask):
    problem = naive.random_problem(10)
    problem["labels"][2] = problem["key_labels"][2] = 0.0
    rows = gradient(lambda d: loss(problem, d, key_mask=key_mask), problem["distributions"])
    np.testing.assert_array_equal(rows[2], 0.0)
    assert np.isfinite(rows).all()
    assert (np.abs(np.delete(rows, 2, axis=0)).max(axis=1) > 0).all()
    rows = gradient(lambda d: recovery.alignment_loss(d, problem["labels"]), problem["distributions"])
    np.testing.assert_array_equal(rows[2], 0.0)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("hidden", ["nothing", "queue", "everything"])
def test_a_batch_without_labels_costs_nothing(dtype, hidden):
    problem = naive.random_problem(11)
    problem["labels"] = np.zeros((6, 4))
    mask = np.arange(15) < {"nothing": 15, "queue": 6, "everything": 0}[hidden]
    distributions = tf.cast(problem["distributions"], dtype)
    for function in (
        lambda d: cld(problem, d, key_mask=mask),
        lambda d: rld(problem, d, key_mask=mask),
        lambda d: recovery.alignment_loss(d, problem["labels"]),
    ):
        assert function(distributions).numpy() == 0.0
        np.testing.assert_array_equal(gradient(function, distributions).astype("float64"), 0.0)


@pytest.mark.parametrize("loss", [cld, rld])
def test_with_every_key_hidden_the_loss_is_zero(loss):
    assert loss(naive.random_problem(12), key_mask=np.zeros(15, bool)).numpy() == 0.0


# Precision


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_low_precision_inputs_are_computed_in_float32(dtype):
    problem = naive.random_problem(13, queued=100, labels=8)
    similarities = cosines(problem).astype("float32")
    low = {name: tf.cast(problem[name], dtype) for name in ("distributions", "key_distributions")}
    rounded = {**problem, **{name: tf.cast(value, "float64").numpy() for name, value in low.items()}}
    labels = (problem["labels"], problem["key_labels"])
    got = recovery.contrastive_similarity_loss(low["distributions"], low["key_distributions"], *labels)
    assert got.dtype == "float32"
    np.testing.assert_allclose(got, naive_cld(rounded), rtol=1e-5)
    got = recovery.rbf_similarity_loss(low["distributions"], low["key_distributions"], similarities, *labels)
    assert got.dtype == "float32"
    np.testing.assert_allclose(got, naive_rld(rounded), rtol=1e-3)  # float32 cosines times 1/σ² = 1e4
    got = recovery.alignment_loss(low["distributions"], problem["labels"])
    assert got.dtype == "float32"
    np.testing.assert_allclose(got, naive.alignment(rounded["distributions"], problem["labels"]), rtol=1e-5)


@pytest.mark.parametrize("loss", [cld, rld])
def test_extreme_distributions_have_finite_losses_and_gradients(loss):
    problem = naive.random_problem(14)
    rng = np.random.default_rng(0)
    problem["key_distributions"] = tf.nn.softmax(tf.constant(50 * rng.normal(size=(15, 4)), "float32"))
    problem = {name: tf.cast(value, "float32") for name, value in problem.items()}
    logits = tf.constant(50 * rng.normal(size=(6, 4)), "float32")

    def step(u):
        return loss(
            {**problem, "keys": problem["keys"].numpy(), "queries": problem["queries"].numpy()}, tf.nn.softmax(u)
        )

    assert np.isfinite(step(logits).numpy())
    assert np.isfinite(gradient(step, logits)).all()


# Diagnostics


def test_label_leak_by_hand():
    distributions = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]]
    leak = recovery.label_leak(distributions, [[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert leak.numpy() == pytest.approx((0.2 + 0.9) / 2, rel=1e-6)
    assert recovery.label_leak(distributions, np.zeros((3, 3))).numpy() == 0.0


def test_label_weight_entropy_by_hand():
    weights = [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert recovery.label_weight_entropy(weights).numpy() == pytest.approx(np.log(2) / 2, rel=1e-6)
    weights = np.array([[0.7, 0.2, 0.1]])
    expected = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1))
    assert recovery.label_weight_entropy(weights).numpy() == pytest.approx(expected, rel=1e-12)
    assert recovery.label_weight_entropy(np.zeros((2, 3))).numpy() == 0.0


# Wrong use

D, K = np.full((2, 3), 1 / 3), np.full((4, 3), 1 / 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recovery.label_weights(D, D, rho=1.5), "rho must lie in [0, 1]. Received: rho=1.5"),
        (
            lambda: recovery.label_weights(D, np.ones((2, 4))),
            "labels [B, C] and distributions must agree on C. Received: C=4 in labels, C=3 in distributions",
        ),
        (
            lambda: recovery.alignment_loss(D, np.ones(3)),
            "labels must have the shape [B, C]. Received: shape=(3,)",
        ),
        (
            lambda: recovery.contrastive_similarity_loss(D, K, D, np.ones((5, 3))),
            "key_labels [K, C] and key_distributions must agree on K. "
            "Received: K=5 in key_labels, K=4 in key_distributions",
        ),
        (
            lambda: recovery.contrastive_similarity_loss(D, K, D, K, temperature=0),
            "temperature must be above 0. Received: temperature=0",
        ),
        (
            lambda: recovery.rbf_similarity_loss(D, K, np.ones((4, 2)), D, K),
            "similarities [B, K] and distributions must agree on B. "
            "Received: B=4 in similarities, B=2 in distributions",
        ),
        (
            lambda: recovery.rbf_similarity_loss(D, K, np.ones((2, 4)), D, K, sigma=0.0),
            "sigma must be above 0. Received: sigma=0.0",
        ),
    ],
)
def test_wrong_use_is_one_line(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message
