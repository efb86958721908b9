import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.losses.method import Method, count, losses_on_arrays
from mulsupcon_tf.losses.mulsupcon import MulSupCon
from mulsupcon_tf.losses.mulsupconld import CLD, KeysByDistribution
from mulsupcon_tf.losses.positives import ContrastOfPositives, OwnKey
from mulsupcon_tf.losses.registry import build_method
from mulsupcon_tf.utils.errors import InputError
from tests.helpers import naive_losses as naive
from tests.helpers.losses_of_problems import (
    CASES,
    anchors_and_block,
    gradients,
    losses,
    losses_in_blocks,
    naive_losses,
    name_of,
    problem_for,
    some_anchors,
    tensors_of,
)
from tests.helpers.own_methods import AlignAndSpread, keys_within

EACH = pytest.mark.parametrize("case", CASES, ids=name_of)
LABELS = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0]], np.float32)


def built(case, **settings):
    return build_method(case[0], **case[1] | settings)


def test_counts_are_those_of_a_loop():
    counts = count(tf.constant(LABELS))
    assert (float(counts.samples), float(counts.labelled), float(counts.pairs)) == (
        len(LABELS),
        sum(row.any() for row in LABELS),
        sum(row.sum() for row in LABELS),
    )
    assert counts.by_label.numpy().tolist() == [sum(row[label] for row in LABELS) for label in range(3)]
    assert {part.dtype for part in counts} == {tf.float32}


# What holds for every method


@pytest.mark.parametrize("hide", [False, True], ids=["all keys", "some hidden"])
@pytest.mark.parametrize("places", [[6], [3, 4, 11]], ids=["two blocks", "four blocks"])
@EACH
def test_blocks_of_keys_give_what_the_whole_gives(case, places, hide):
    problem = problem_for(case[0], 0, unlabelled=True)
    visible = np.arange(15) < 13 if hide else None
    method, by = built(case), ("embeddings", "distributions", "kernel")
    anchors, block = anchors_and_block(problem, visible)
    with tf.GradientTape() as tape:
        tape.watch([getattr(anchors, name) for name in by])
        got = losses_in_blocks(method, anchors, block, places, count(anchors.labels))
    slopes = tape.gradient(got["loss"], [getattr(anchors, name) for name in by])
    expected = naive_losses(case, problem, visible=visible)
    assert got.keys() == expected.keys() == {"loss", "contrastive_loss", *method.parts}
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-11, err_msg=name)
    for one, other in zip(slopes, gradients(method, problem, key_mask=visible).values(), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-13)


@EACH
def test_the_parts_of_a_batch_sum_to_the_whole(case):
    """Each with all keys and its own share of the anchors, whose labels are of different numbers."""
    problem = problem_for(case[0], 1, batch=7, unlabelled=True)
    method = built(case)
    anchors, block = anchors_and_block(problem)
    whole = count(anchors.labels)
    sums, slopes, means = {}, [], []
    for first, end in ((0, 1), (1, 2), (2, 4), (4, 7)):
        with tf.GradientTape() as tape:
            tape.watch([anchors.embeddings, anchors.kernel])
            part = some_anchors(anchors, first, end)
            gathered = method.of_keys(part)(block)
            found = method.losses(part, gathered, whole)
        slopes.append(tape.gradient(found["loss"], [anchors.embeddings, anchors.kernel], unconnected_gradients="zero"))
        means.append(float(method.positives_per_anchor(gathered, whole)))
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    for name, value in naive_losses(case, problem).items():
        assert sums[name] == pytest.approx(value, rel=1e-10), name
    expected = gradients(method, problem, by=("queries", "kernel"))
    for name, each in zip(expected, zip(*slopes, strict=True), strict=True):
        total = sum(tf.convert_to_tensor(slope).numpy() for slope in each)
        np.testing.assert_allclose(total, 0.0 if expected[name] is None else expected[name], rtol=1e-9, atol=1e-13)
    assert len(set(means)) == 1  # a number of the whole batch


@EACH
def test_what_the_weights_of_the_positives_add_up_to(case):
    """Where all keys look alike every loss is this number times ln K."""
    problem = problem_for(case[0], 2, unlabelled=case[0] != "self")
    problem["queries"] = np.tile(problem["queries"][:1], (6, 1))
    problem["keys"] = np.tile(problem["keys"][:1], (15, 1))
    if case[1].get("average") == "anchor" or case[0] in ("any", "all", "jaccard"):
        assert not problem["labels"][1].any()  # and is left out of the mean
    anchors, block = anchors_and_block(problem)
    method = built(case)
    gathered, whole = method.of_keys(anchors)(block), count(anchors.labels)
    number = float(method.positives_per_anchor(gathered, whole))
    found = method.losses(anchors, gathered, whole)
    np.testing.assert_allclose(found["contrastive_loss"], number * np.log(15), rtol=1e-11)
    if case[0] in ("cld", "rld", "truth"):
        sharing = naive.visible_positives(problem["labels"], problem["key_labels"])
        masses = [
            sum(problem["labels"][i] * problem["key_labels"][p] * problem["key_distributions"][p]) for i, p in sharing
        ]
        assert number == pytest.approx(sum(masses) / 6, rel=1e-12)
    else:
        assert number == 1.0


@EACH
def test_the_order_of_labels_and_of_queued_keys_does_not_matter(case):
    problem = problem_for(case[0], 3, unlabelled=True)
    expected = naive_losses(case, problem)
    labels, keys = np.array([2, 0, 3, 1]), np.r_[np.arange(6), 6 + np.random.default_rng(0).permutation(9)]
    by_label = ("labels", "key_labels", "distributions", "key_distributions", "kernel")
    for permuted in (
        problem | {name: problem[name][:, labels] for name in by_label},
        problem | {name: problem[name][keys] for name in ("keys", "key_labels", "key_distributions")},
    ):
        for name, value in losses(built(case), permuted).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-11, err_msg=name)


@pytest.mark.parametrize("filled", [6, 11], ids=["own keys only", "half a queue"])
@EACH
def test_a_filled_prefix_is_a_masked_full_queue(case, filled):
    problem = problem_for(case[0], 4)
    full = problem | {name: problem[name].copy() for name in ("keys", "key_labels", "key_distributions")}
    full["keys"][filled:] = full["queries"][0]  # what an empty slot holds must not matter
    full["key_labels"][filled:] = 1.0
    full["key_distributions"][filled:] = [1.0, 0.0, 0.0, 0.0]
    prefix = problem | {name: problem[name][:filled] for name in ("keys", "key_labels", "key_distributions")}
    mask, method = np.arange(15) < filled, built(case)
    expected = naive_losses(case, prefix)
    for name, value in losses(method, full, key_mask=mask).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-11, err_msg=name)
    pairs = zip(gradients(method, full, key_mask=mask).values(), gradients(method, prefix).values(), strict=True)
    for one, other in pairs:
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("case", [case for case in CASES if case[0] != "self"], ids=name_of)
def test_an_anchor_without_labels_has_no_loss_and_exactly_no_gradient(case):
    problem = problem_for(case[0], 5)
    for name in ("labels", "distributions") if case[0] == "truth" else ("labels",):
        problem[name][2] = problem[f"key_{name}"][2] = 0.0
    for mask in (None, np.arange(15) < 6):
        for rows in gradients(built(case), problem, by=("queries", "distributions"), key_mask=mask).values():
            if rows is not None:
                np.testing.assert_array_equal(rows[2], 0.0)
                assert (np.abs(np.delete(rows, 2, axis=0)).max(axis=1) > 0).all()
    anchors, block = anchors_and_block(problem)
    alone, method = some_anchors(anchors, 2, 3), built(case)
    found = method.losses(alone, method.of_keys(alone)(block), count(anchors.labels))
    penalty = 0.02 * (problem["kernel"] ** 2).sum() / 6 if case[0] in ("cld", "rld") else 0.0
    assert float(found["loss"]) == pytest.approx(penalty, rel=1e-12)
    assert float(found["contrastive_loss"]) == 0.0


@EACH
def test_no_gradient_flows_into_the_keys(case):
    problem = tensors_of(problem_for(case[0], 6))
    watched = [problem[name] for name in ("keys", "key_distributions", "queries")]
    with tf.GradientTape() as tape:
        tape.watch(watched)
        loss = losses(built(case), problem)["loss"]
    *by_keys, by_queries = tape.gradient(loss, watched)
    assert by_keys == [None, None]
    assert np.abs(by_queries).max() > 0


TEMPERATURES = (0.01, 0.049, 0.05, 0.1, 0.5, 2.0)
# In double precision the two sides of 0.05 by default: what is more precise does not overflow sooner.
IN_FLOAT64 = (0.049, 0.5)


@pytest.mark.parametrize(
    ("dtype", "temperature"),
    [
        *(("float32", temperature) for temperature in TEMPERATURES),
        *(
            pytest.param("float64", temperature, marks=() if temperature in IN_FLOAT64 else pytest.mark.slow)
            for temperature in TEMPERATURES
        ),
    ],
)
@EACH
def test_at_any_temperature_losses_are_finite_and_the_naive_loops(case, dtype, temperature):
    """One anchor is opposite to all keys, so that all of its odds are near exp(−2 / τ); one is its own key."""
    problem = problem_for(case[0], 7)
    problem["keys"][:, 0] = np.abs(problem["keys"][:, 0]) + 10
    problem["keys"] /= np.linalg.norm(problem["keys"], axis=1, keepdims=True)
    problem["queries"][0] = -problem["keys"].mean(axis=0) / np.linalg.norm(problem["keys"].mean(axis=0))
    problem["queries"][1] = problem["keys"][1]
    method = built(case, temperature=temperature)
    got, expected = losses(method, problem, dtype=dtype), naive_losses(case, problem, temperature=temperature)
    rtol, atol = (1e-10, 1e-10) if dtype == "float64" else (5e-5, 5e-4)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=rtol, atol=atol, err_msg=name)
    slopes = gradients(method, problem, dtype=dtype)
    assert all(np.isfinite(slope).all() for slope in slopes.values() if slope is not None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@EACH
def test_low_precision_inputs_are_computed_in_float32(case, dtype):
    problem = problem_for(case[0], 8, queued=60)
    low = {name: tf.cast(value, dtype) for name, value in tensors_of(problem).items()}
    got = losses(built(case), low)
    assert {value.dtype for value in got.values()} == {tf.float32}
    # The same as of float32 tensors that hold the rounded numbers, bit for bit.
    exact = losses(built(case), {name: tf.cast(value, "float32") for name, value in low.items()})
    assert {name: float(value) for name, value in got.items()} == {name: float(value) for name, value in exact.items()}


@EACH
def test_sizes_that_are_unknown_while_tracing(case):
    problem, names = problem_for(case[0], 9), ("queries", "keys", "labels", "key_labels", "distributions")
    names += ("key_distributions",)
    method = built(case)
    specs = [tf.TensorSpec((None, problem[name].shape[1]), tf.float64) for name in names]

    @tf.function(input_signature=specs)
    def loss(*rows):
        return losses_on_arrays(method, **dict(zip(names, rows, strict=True)), kernel=problem["kernel"])["loss"]

    expected = naive_losses(case, problem)["loss"]
    np.testing.assert_allclose(loss(*(tf.constant(problem[name]) for name in names)), expected, rtol=1e-11)


COMPILED = [case for case in CASES if len(case[1]) in (0, 3)]
FIRST_OF_EACH_CLASS = list({type(built(case)): case for case in reversed(COMPILED)}.values())


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in FIRST_OF_EACH_CLASS else pytest.mark.slow) for case in COMPILED],
    ids=name_of,
)
def test_losses_compile_under_xla(case):
    problem, method = tensors_of(problem_for(case[0], 10), "float32"), built(case)
    step = tf.function(lambda: losses(method, problem), autograph=False, jit_compile=True)
    for name, value in losses(method, problem).items():
        assert float(step()[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-5), name


# A method of one's own


def naive_align_and_spread(problem, temperature, visible=None):
    """By the loop, of the equation in its docstring."""
    total = 0.0
    for i, query in enumerate(problem["queries"]):
        seen = [p for p in range(len(problem["keys"])) if visible is None or visible[p]]
        distances = {p: sum((query - problem["keys"][p]) ** 2) for p in seen}
        near = [distances[p] for p in seen if (problem["labels"][i] * problem["key_labels"][p]).any()]
        total += np.mean(near) + temperature * np.log(sum(np.exp(-distances[p] / (2 * temperature)) for p in seen))
    return total / len(problem["queries"])


def test_a_method_of_ones_own_is_what_its_equation_says():
    problem, visible = naive.random_problem(11), np.arange(15) < 12
    method = AlignAndSpread(temperature=0.3)
    expected = naive_align_and_spread(problem, 0.3, visible)
    np.testing.assert_allclose(losses(method, problem, key_mask=visible)["loss"], expected, rtol=1e-11)
    anchors, block = anchors_and_block(problem, visible)
    found = losses_in_blocks(method, anchors, block, [5, 10], count(anchors.labels))
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-11)
    slopes = naive.central_differences(
        lambda queries: naive_align_and_spread(problem | {"queries": queries}, 0.3, visible), problem["queries"]
    )
    # Between unit vectors a distance is 2 − 2 z·k; off the sphere it is not, and the gradients differ along z.
    along = (slopes * problem["queries"]).sum(1, keepdims=True) * problem["queries"]
    got = gradients(method, problem, by=("queries",), key_mask=visible)["queries"]
    got_along = (got * problem["queries"]).sum(1, keepdims=True) * problem["queries"]
    np.testing.assert_allclose(got - got_along, slopes - along, atol=1e-8)


def test_a_function_from_labels_to_positives_is_a_method():
    problem = naive.random_problem(12, unlabelled=True)
    positives = naive.positives_by(
        lambda own, other: bool(other) and other <= own, problem["labels"], problem["key_labels"]
    )
    assert (positives.sum(1) > 1).any()
    expected = naive.supervised_contrastive(problem["queries"], problem["keys"], positives, temperature=0.2)
    got = losses(build_method(keys_within, temperature=0.2), problem)["loss"]
    np.testing.assert_allclose(got, expected, rtol=1e-11)


@pytest.mark.parametrize(
    "method", [AlignAndSpread(temperature=0.3), build_method(keys_within, temperature=0.3)], ids=["object", "function"]
)
def test_methods_of_ones_own_survive_saving(method):
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(method))
    assert type(twin) is type(method)
    assert vars(twin) == vars(method)


def test_what_a_method_takes_says_whether_distributions_are_queued():
    kinds = {
        kind: (kind.uses_distributions, kind.learns_distributions, kind.takes_true_distributions)
        for kind in (CLD(), KeysByDistribution(), MulSupCon(), OwnKey(), AlignAndSpread())
    }
    assert {type(kind).__name__: flags for kind, flags in kinds.items()} == {
        "CLD": (True, True, False),
        "KeysByDistribution": (True, False, True),
        "MulSupCon": (False, False, False),
        "OwnKey": (False, False, False),
        "AlignAndSpread": (False, False, False),
    }


def test_a_method_must_say_both_what_it_needs_and_its_losses():
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Method,), {"of_keys": lambda self, anchors: None})()


# Wrong use

ROWS, KEYS = np.eye(2, 3), np.eye(4, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: losses_on_arrays(MulSupCon(), ROWS, np.eye(4, 5), np.ones((2, 2)), np.ones((4, 2))),
            "keys [K, D] and queries must agree on D. Received: D=5 in keys, D=3 in queries",
        ),
        (
            lambda: losses_on_arrays(MulSupCon(), ROWS, KEYS, np.ones((2, 2)), np.ones((4, 3))),
            "key_labels [K, C] and labels must agree on C. Received: C=3 in key_labels, C=2 in labels",
        ),
        (
            lambda: losses_on_arrays(OwnKey(), ROWS, KEYS, np.ones((1, 2)), np.ones((4, 2))),
            "labels [B, C] and queries must agree on B. Received: B=1 in labels, B=2 in queries",
        ),
        (
            lambda: losses_on_arrays(
                ContrastOfPositives(keys_within), ROWS, KEYS, np.ones((2, 2)), np.ones((4, 2)), key_mask=np.ones((4, 1))
            ),
            "key_mask must have the shape [K]. Received: shape=(4, 1)",
        ),
        (
            lambda: losses_on_arrays(CLD(), ROWS, KEYS, np.ones((2, 2)), np.ones((4, 2))),
            "distributions and key_distributions must be given to a method that uses them. Received: method=CLD without",
        ),
        (
            lambda: losses_on_arrays(
                KeysByDistribution(), ROWS, KEYS, ROWS, KEYS, distributions=ROWS, key_distributions=ROWS
            ),
            "key_distributions [K, C] and keys must agree on K. Received: K=2 in key_distributions, K=4 in keys",
        ),
        (
            lambda: losses_on_arrays(OwnKey(), KEYS, KEYS[:1], np.ones((4, 2)), np.ones((1, 2))),
            "keys must be at least as many as queries, of which each has a key of its own. Received: 1 keys of 4 queries",
        ),
    ],
)
def test_wrong_use_is_one_line(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message
