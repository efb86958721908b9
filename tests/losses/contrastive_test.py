import keras
import numpy as np
import pytest
import tensorflow as tf
from mulsupcon_tf.losses.contrastive import contrastive as losses
from mulsupcon_tf.losses.recovery import label_weights

from mulsupcon_tf.utils.errors import InputError
from tests.helpers import naive_losses as naive

TEMPERATURES = [0.1, 0.01, 1.0]


def weighted(problem, weights, **options):
    return losses.weighted_contrastive_loss(
        problem["queries"], problem["keys"], problem["key_labels"], weights, **options
    ).numpy()


def over(problem, positives, **options):
    return losses.supervised_contrastive_loss(problem["queries"], problem["keys"], positives, **options).numpy()


def naive_weighted(problem, weights, temperature=0.1, visible=None, key_weights=None):
    parts = (problem[name] for name in ("queries", "keys", "labels", "key_labels"))
    return naive.weighted_contrastive(
        *parts, weights, temperature=temperature, visible=visible, key_weights=key_weights
    )


def naive_rows(problem, temperature=0.1, visible=None):
    parts = (problem[name] for name in ("queries", "keys", "labels", "key_labels"))
    return naive.pair_losses(*parts, temperature=temperature, visible=visible)


def gradient(function, point):
    variable = tf.Variable(point)
    with tf.GradientTape() as tape:
        loss = function(variable)
    return tape.gradient(loss, variable).numpy()


# The weighted loss


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("seed", range(3))
def test_prototype_form_is_the_naive_loop(seed, temperature):
    problem = naive.random_problem(seed, unlabelled=True)
    weights = naive.label_weights(problem["distributions"], problem["labels"], rho=0.8)
    got = weighted(problem, weights, temperature=temperature)
    np.testing.assert_allclose(got, naive_weighted(problem, weights, temperature), rtol=1e-12)


def test_anchor_average_is_the_mean_over_anchors_of_the_row_expansion():
    problem = naive.random_problem(3, unlabelled=True)
    rows = naive_rows(problem)
    anchors = sorted({i for i, _ in rows})
    expected = np.mean([np.mean([loss for (i, _), loss in rows.items() if i == anchor]) for anchor in anchors])
    got = weighted(problem, losses.uniform_label_weights(problem["labels"]))
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("hide", [False, True])
def test_pair_average_is_the_mean_over_all_rows_of_the_row_expansion(hide):
    problem = naive.random_problem(4, unlabelled=True)
    visible = np.ones(len(problem["keys"]), bool)
    if hide:  # no visible key carries label 2, which some anchors have: those pairs are no rows
        visible = problem["key_labels"][:, 2] == 0
        assert problem["labels"][:, 2].any()
    rows = naive_rows(problem, visible=visible)
    assert len(rows) < problem["labels"].sum() or not hide
    got = weighted(
        problem,
        losses.uniform_label_weights(problem["labels"]),
        key_mask=visible,
        anchor_weights=problem["labels"].sum(axis=1),
    )
    np.testing.assert_allclose(got, np.mean(list(rows.values())), rtol=1e-12)


def test_anchor_weights_weigh_the_anchors():
    problem = naive.random_problem(5)
    weights = naive.uniform_weights(problem["labels"])
    anchor_weights = np.array([0.0, 2.0, 0.0, 0.5, 0.0, 0.0])
    alone = []
    for i in (1, 3):
        anchor = {**problem, "queries": problem["queries"][[i]], "labels": problem["labels"][[i]]}
        alone.append(naive_weighted(anchor, weights[[i]]))
    got = weighted(problem, weights, anchor_weights=anchor_weights)
    np.testing.assert_allclose(got, (2.0 * alone[0] + 0.5 * alone[1]) / 2.5, rtol=1e-12)


def test_a_label_without_a_key_leaves_both_terms():
    problem = naive.random_problem(6)
    visible = problem["key_labels"][:, 0] == 0
    weights = naive.label_weights(problem["distributions"], problem["labels"], rho=0.5)
    both = (problem["labels"][:, 0] == 1) & (problem["labels"].sum(axis=1) > 1)
    assert both.any()
    got = weighted(problem, weights, key_mask=visible)
    np.testing.assert_allclose(got, naive_weighted(problem, weights, visible=visible), rtol=1e-12)


def test_keys_may_carry_a_part_of_a_label():
    problem = naive.random_problem(17, unlabelled=True)
    weights = naive.label_weights(problem["distributions"], problem["labels"], rho=0.5)
    key_weights = 3.0 * naive.label_weights(problem["key_distributions"], problem["key_labels"], rho=0.5)
    for visible in (None, problem["key_labels"][:, 0] == 0):
        carried = {**problem, "key_labels": key_weights}
        expected = naive_weighted(problem, weights, visible=visible, key_weights=key_weights)
        np.testing.assert_allclose(weighted(carried, weights, key_mask=visible), expected, rtol=1e-12)
        assert abs(weighted(problem, weights, key_mask=visible) - expected) > 1e-3


def test_two_orthogonal_keys_in_closed_form():
    # One label each; the anchor is its own key: -log(e^(1/τ) / (e^(1/τ) + 1)).
    one = np.eye(2)
    expected = np.log1p(np.exp(-2.0))
    got = losses.weighted_contrastive_loss(one, one, one, one, temperature=0.5)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    got = losses.supervised_contrastive_loss(one, one, one, temperature=0.5)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_distributions_uniform_over_the_labels_give_mulsupcon():
    problem = naive.random_problem(7, unlabelled=True)
    uniform = naive.uniform_weights(problem["labels"])
    for rho in (0.0, 0.5, 1.0):
        recovered = label_weights(uniform, problem["labels"], rho=rho)
        np.testing.assert_allclose(weighted(problem, recovered), naive_weighted(problem, uniform), rtol=1e-11)


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_one_label_a_sample_makes_all_of_them_supcon(rho):
    problem = naive.random_problem(8, single_label=True)
    same = naive.positives_by(naive.share_a_label, problem["labels"], problem["key_labels"])
    supcon = naive.supervised_contrastive(problem["queries"], problem["keys"], same, temperature=0.1)
    labels, key_labels = problem["labels"], problem["key_labels"]
    family = {
        "cld and rld": weighted(problem, label_weights(problem["distributions"], labels, rho=rho)),
        "mulsupcon": weighted(problem, losses.uniform_label_weights(labels)),
        "any": over(problem, losses.any_positives(labels, key_labels)),
        "all": over(problem, losses.all_positives(labels, key_labels)),
        "jaccard": over(problem, losses.jaccard_positives(labels, key_labels)),
        "affinity": over(problem, losses.affinity_positives(*map(losses.uniform_label_weights, (labels, key_labels)))),
    }
    for name, loss in family.items():
        assert loss == pytest.approx(supcon, rel=1e-10), name


def test_the_order_of_labels_and_of_keys_does_not_matter():
    problem = naive.random_problem(9, unlabelled=True)
    weights = naive.label_weights(problem["distributions"], problem["labels"], rho=0.5)
    expected = naive_weighted(problem, weights)
    label_order, key_order = np.array([2, 0, 3, 1]), np.random.default_rng(0).permutation(len(problem["keys"]))
    relabelled = {**problem, "key_labels": problem["key_labels"][:, label_order]}
    assert weighted(relabelled, weights[:, label_order]) == pytest.approx(expected, rel=1e-11)
    reordered = {**problem, "keys": problem["keys"][key_order], "key_labels": problem["key_labels"][key_order]}
    assert weighted(reordered, weights) == pytest.approx(expected, rel=1e-11)
    positives = naive.positives_by(naive.jaccard_of_at_least(0.5), problem["labels"], problem["key_labels"])
    expected = naive.supervised_contrastive(problem["queries"], problem["keys"], positives, temperature=0.1)
    assert over(reordered, positives[:, key_order]) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("filled", [6, 11], ids=["own keys only", "half a queue"])
def test_a_filled_prefix_is_a_masked_full_queue(filled):
    problem = naive.random_problem(10)
    mask = np.arange(len(problem["keys"])) < filled
    full = {**problem, "keys": problem["keys"].copy(), "key_labels": problem["key_labels"].copy()}
    full["keys"][filled:] = 100.0  # what an unfilled slot holds must not matter
    full["key_labels"][filled:] = 1.0
    prefix = {**problem, "keys": problem["keys"][:filled], "key_labels": problem["key_labels"][:filled]}
    weights = naive.uniform_weights(problem["labels"])
    expected = naive_weighted(prefix, weights)
    assert weighted(full, weights, key_mask=mask) == pytest.approx(expected, rel=1e-11)
    positives = naive.positives_by(naive.share_a_label, problem["labels"], full["key_labels"])
    expected = naive.supervised_contrastive(prefix["queries"], prefix["keys"], positives[:, :filled], temperature=0.1)
    assert over(full, positives, key_mask=mask) == pytest.approx(expected, rel=1e-11)


def test_with_all_but_the_own_key_hidden_its_probability_is_one():
    problem = naive.random_problem(11)
    mask = np.arange(len(problem["keys"])) < 1
    problem = {**problem, "queries": problem["queries"][:1], "labels": problem["labels"][:1]}
    weights = naive.uniform_weights(problem["labels"])
    assert weighted(problem, weights, key_mask=mask) == pytest.approx(0.0, abs=1e-12)
    own = losses.own_key_positives(1, len(mask))
    assert over(problem, own, key_mask=mask) == pytest.approx(0.0, abs=1e-12)


def test_with_every_key_hidden_the_loss_is_zero():
    problem = naive.random_problem(12)
    mask = np.zeros(len(problem["keys"]), bool)
    assert weighted(problem, naive.uniform_weights(problem["labels"]), key_mask=mask) == 0.0
    assert over(problem, np.ones((6, 15)), key_mask=mask) == 0.0


# The loss over given positives


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("rule", ["any", "all", "jaccard", "self", "weights"])
def test_loss_over_positives_is_the_naive_loop(rule, temperature):
    problem = naive.random_problem(13, unlabelled=True)
    labels, key_labels = problem["labels"], problem["key_labels"]
    positives, expected = {
        "any": (losses.any_positives(labels, key_labels), naive.positives_by(naive.share_a_label, labels, key_labels)),
        "all": (
            losses.all_positives(labels, key_labels),
            naive.positives_by(naive.have_the_same_labels, labels, key_labels),
        ),
        "jaccard": (
            losses.jaccard_positives(labels, key_labels),
            naive.positives_by(naive.jaccard_of_at_least(0.5), labels, key_labels),
        ),
        "self": (losses.own_key_positives(6, 15), np.eye(6, 15)),
        "weights": (np.random.default_rng(0).random((6, 15)),) * 2,
    }[rule]
    visible = np.arange(15) != 7
    got = over(problem, positives, temperature=temperature, key_mask=visible)
    naive_loss = naive.supervised_contrastive(
        problem["queries"], problem["keys"], expected, temperature=temperature, visible=visible
    )
    np.testing.assert_allclose(got, naive_loss, rtol=1e-12)


def test_positives_by_hand():
    labels = np.array([[1, 1, 0], [0, 0, 0]])
    key_labels = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1], [0, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(losses.any_positives(labels, key_labels), [[1, 1, 1, 0, 1, 0], [0] * 6])
    np.testing.assert_array_equal(losses.all_positives(labels, key_labels), [[1, 0, 0, 0, 0, 0], [0] * 6])
    np.testing.assert_allclose(losses.jaccard_positives(labels, key_labels), [[1, 0.5, 2 / 3, 0, 0, 0], [0] * 6])
    third = losses.jaccard_positives(labels, key_labels, minimum=1 / 3)
    np.testing.assert_allclose(third, [[1, 0.5, 2 / 3, 0, 1 / 3, 0], [0] * 6])
    np.testing.assert_array_equal(losses.own_key_positives(2, 4), [[1, 0, 0, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(losses.own_key_positives(2, 4, first_key=1), [[0, 1, 0, 0], [0, 0, 1, 0]])
    np.testing.assert_allclose(losses.uniform_label_weights(labels), [[0.5, 0.5, 0], [0, 0, 0]])
    weights = np.array([[0.5, 0.5, 0], [0, 0, 0]])
    key_weights = np.array([[0.5, 0.5, 0], [1, 0, 0], [0.32, 0.18, 0.5], [0, 0, 1]])
    squared = losses.affinity_positives(weights, key_weights, power=2)  # (√0.16 + √0.09)² = 0.49
    np.testing.assert_allclose(squared, [[1, 0.5, 0.49, 0], [0] * 4])


@pytest.mark.parametrize("seed", range(3))
def test_positives_are_the_rules_on_label_sets(seed):
    problem = naive.random_problem(seed, queued=40, labels=6, unlabelled=True)
    labels, key_labels = problem["labels"], problem["key_labels"]
    for got, rule in [
        (losses.any_positives(labels, key_labels), naive.share_a_label),
        (losses.all_positives(labels, key_labels), naive.have_the_same_labels),
        (losses.jaccard_positives(labels, key_labels), naive.jaccard_of_at_least(0.5)),
        (losses.jaccard_positives(labels, key_labels, minimum=0.2), naive.jaccard_of_at_least(0.2)),
    ]:
        np.testing.assert_allclose(got, naive.positives_by(rule, labels, key_labels), rtol=1e-12)


@pytest.mark.parametrize("power", [0.5, 1.0, 16.0])
def test_affinities_are_the_naive_loop(power):
    problem = naive.random_problem(5, queued=40, labels=6, unlabelled=True)
    weights, key_weights = (
        naive.label_weights(problem[f"{side}distributions"], problem[f"{side}labels"], rho=0.5) for side in ("", "key_")
    )
    got = losses.affinity_positives(weights, key_weights, power=power)
    np.testing.assert_allclose(got, naive.affinities(weights, key_weights, power), rtol=1e-12)
    assert losses.affinity_positives(np.float32(weights), np.float32(weights), power=power).numpy().max() <= 1


def test_a_large_power_of_affinity_leaves_the_same_label_sets():
    problem = naive.random_problem(6, queued=60, unlabelled=True)
    labels, key_labels = problem["labels"], problem["key_labels"]
    got = losses.affinity_positives(*map(losses.uniform_label_weights, (labels, key_labels)), power=500.0)
    same = naive.positives_by(naive.have_the_same_labels, labels, key_labels)
    assert same.any()
    np.testing.assert_allclose(got, same, atol=1e-6)


# Gradients


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_gradients_are_those_of_finite_differences(temperature):
    problem = naive.random_problem(14, unlabelled=True)
    weights = naive.label_weights(problem["distributions"], problem["labels"], rho=0.5)
    positives = np.random.default_rng(1).random((6, 15))
    visible = np.arange(15) != 7

    got = gradient(
        lambda queries: losses.weighted_contrastive_loss(
            queries, problem["keys"], problem["key_labels"], weights, temperature=temperature, key_mask=visible
        ),
        problem["queries"],
    )
    expected = naive.central_differences(
        lambda queries: naive_weighted({**problem, "queries": queries}, weights, temperature, visible),
        problem["queries"],
    )
    np.testing.assert_allclose(got, expected, atol=1e-8)

    got = gradient(
        lambda queries: losses.supervised_contrastive_loss(
            queries, problem["keys"], positives, temperature=temperature, key_mask=visible
        ),
        problem["queries"],
    )
    expected = naive.central_differences(
        lambda queries: naive.supervised_contrastive(
            queries, problem["keys"], positives, temperature=temperature, visible=visible
        ),
        problem["queries"],
    )
    np.testing.assert_allclose(got, expected, atol=1e-8)


def test_no_gradient_flows_into_the_keys():
    problem = naive.random_problem(15)
    keys = tf.Variable(problem["keys"])
    queries = tf.Variable(problem["queries"])
    with tf.GradientTape(persistent=True) as tape:
        first = losses.weighted_contrastive_loss(
            queries, keys, problem["key_labels"], naive.uniform_weights(problem["labels"])
        )
        second = losses.supervised_contrastive_loss(queries, keys, np.ones((6, 15)))
    for loss in (first, second):
        assert tape.gradient(loss, keys) is None
        assert np.abs(tape.gradient(loss, queries)).max() > 0


@pytest.mark.parametrize("key_mask", [None, np.arange(15) < 6])
def test_an_unlabelled_anchor_has_a_zero_gradient_and_leaves_the_mean(key_mask):
    problem = naive.random_problem(16)
    problem["labels"][2] = problem["key_labels"][2] = 0.0
    weights = naive.uniform_weights(problem["labels"])
    any_of_them = naive.positives_by(naive.share_a_label, problem["labels"], problem["key_labels"])
    for function in (
        lambda queries: losses.weighted_contrastive_loss(
            queries, problem["keys"], problem["key_labels"], weights, key_mask=key_mask
        ),
        lambda queries: losses.supervised_contrastive_loss(queries, problem["keys"], any_of_them, key_mask=key_mask),
    ):
        rows = gradient(function, problem["queries"])
        np.testing.assert_array_equal(rows[2], 0.0)
        assert np.isfinite(rows).all()
        assert (np.abs(np.delete(rows, 2, axis=0)).max(axis=1) > 0).all()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("key_mask", [None, np.arange(15) < 6])
def test_a_batch_without_labels_costs_nothing(dtype, key_mask):
    problem = naive.random_problem(17)
    nothing = np.zeros((6, 4))
    for function in (
        lambda queries: losses.weighted_contrastive_loss(
            queries, problem["keys"], problem["key_labels"], losses.uniform_label_weights(nothing), key_mask=key_mask
        ),
        lambda queries: losses.supervised_contrastive_loss(
            queries, problem["keys"], losses.any_positives(nothing, problem["key_labels"]), key_mask=key_mask
        ),
    ):
        queries = tf.cast(problem["queries"], dtype)
        assert function(queries).numpy() == 0.0
        np.testing.assert_array_equal(gradient(function, queries).astype("float64"), 0.0)


# Precision


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_low_precision_inputs_are_computed_in_float32(dtype, temperature):
    problem = naive.random_problem(18, queued=200, dimensions=16)
    low = {name: tf.cast(problem[name], dtype) for name in ("queries", "keys", "labels", "key_labels")}
    # The naive loop sees the rounded inputs, so that only the arithmetic differs.
    rounded = {name: tf.cast(value, "float64").numpy() for name, value in low.items()}
    weights = naive.uniform_weights(problem["labels"])
    visible = np.arange(206) < 150
    got = losses.weighted_contrastive_loss(
        low["queries"], low["keys"], low["key_labels"], weights, temperature=temperature, key_mask=visible
    )
    assert got.dtype == "float32"
    np.testing.assert_allclose(got, naive_weighted(rounded, weights, temperature, visible), rtol=1e-5)

    positives = losses.any_positives(low["labels"], low["key_labels"])
    assert positives.dtype == "float32"
    got = losses.supervised_contrastive_loss(
        low["queries"], low["keys"], positives, temperature=temperature, key_mask=visible
    )
    expected = naive.positives_by(naive.share_a_label, problem["labels"], problem["key_labels"])
    expected = naive.supervised_contrastive(
        rounded["queries"], rounded["keys"], expected, temperature=temperature, visible=visible
    )
    assert got.dtype == "float32"
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_opposite_keys_at_a_small_temperature_stay_finite():
    # log softmax of the far key is -200 at τ 0.01: log(softmax) would be minus infinity.
    queries = tf.constant([[1.0, 0.0]])
    keys = tf.constant([[-1.0, 0.0], [1.0, 0.0]])
    key_labels = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    weights = tf.constant([[1.0, 0.0]])

    def first(q):
        return losses.weighted_contrastive_loss(q, keys, key_labels, weights, temperature=0.01)

    def second(q):
        return losses.supervised_contrastive_loss(q, keys, [[1.0, 0.0]], temperature=0.01)

    for function in (first, second):
        assert function(queries).numpy() == pytest.approx(200.0)
        # (Σ softmax_p k_p − P) / τ = ([1, 0] − [−1, 0]) / 0.01
        np.testing.assert_allclose(gradient(function, queries), [[200.0, 0.0]], rtol=1e-6)


def test_sizes_that_are_unknown_while_tracing():
    problem = naive.random_problem(19)

    @tf.function(
        input_signature=[tf.TensorSpec([None, 5], tf.float64), tf.TensorSpec([None, None], tf.float64)] * 2,
    )
    def step(queries, labels, keys, key_labels):
        own = losses.own_key_positives(tf.shape(queries)[0], tf.shape(keys)[0])
        return (
            losses.weighted_contrastive_loss(queries, keys, key_labels, losses.uniform_label_weights(labels)),
            losses.supervised_contrastive_loss(queries, keys, own),
        )

    parts = (problem["queries"], problem["labels"], problem["keys"], problem["key_labels"])
    weighted_loss, own_loss = step(*(tf.constant(part) for part in parts))
    expected = naive_weighted(problem, naive.uniform_weights(problem["labels"]))
    np.testing.assert_allclose(weighted_loss, expected, rtol=1e-12)
    expected = naive.supervised_contrastive(problem["queries"], problem["keys"], np.eye(6, 15), temperature=0.1)
    np.testing.assert_allclose(own_loss, expected, rtol=1e-12)


# The Keras loss


def naive_in_batch(embeddings, labels, kind, temperature):
    """Losses of the anchors that have a positive among the other samples, by anchor."""
    units = [row / np.linalg.norm(row) for row in embeddings]
    sets = naive.label_sets(labels)
    rule = {
        "any": naive.share_a_label,
        "all": naive.have_the_same_labels,
        "jaccard": naive.jaccard_of_at_least(0.5),
    }.get(kind)
    by_anchor = {}
    for i in range(len(units)):
        others = [p for p in range(len(units)) if p != i]
        log_probabilities = dict(
            zip(others, naive.log_softmax([units[i] @ units[p] / temperature for p in others]), strict=True)
        )
        if kind == "mulsupcon":
            rows = []
            for j in sets[i]:
                carriers = [p for p in others if j in sets[p]]
                if carriers:
                    rows.append(-np.mean([log_probabilities[p] for p in carriers]))
            if rows:
                by_anchor[i] = np.mean(rows)
        else:
            weights = {p: float(rule(sets[i], sets[p])) for p in others}
            if any(weights.values()):
                by_anchor[i] = -sum(weights[p] * log_probabilities[p] for p in others) / sum(weights.values())
    return by_anchor


@pytest.mark.parametrize("kind", ["mulsupcon", "any", "all", "jaccard"])
def test_keras_loss_is_the_naive_in_batch_loop(kind):
    problem = naive.random_problem(20, batch=9, unlabelled=True)
    embeddings, labels = 3.0 * problem["queries"] + 0.1, problem["labels"]
    labels[0] = [1, 0, 1, 1]  # a label set of its own
    labels[5], labels[7] = labels[3], labels[3]
    loss = losses.MultiLabelContrastiveLoss(positives=kind, temperature=0.2, dtype="float64")
    by_anchor = naive_in_batch(embeddings, labels, kind, 0.2)
    assert 0 < len(by_anchor) < 9
    np.testing.assert_allclose(loss(labels, embeddings), np.mean(list(by_anchor.values())), rtol=1e-12)

    got = gradient(lambda rows: loss(labels, rows), embeddings)
    expected = naive.central_differences(
        lambda rows: np.mean(list(naive_in_batch(rows, labels, kind, 0.2).values())), embeddings
    )
    np.testing.assert_allclose(got, expected, atol=1e-8)

    unreduced = losses.MultiLabelContrastiveLoss(positives=kind, temperature=0.2, reduction=None, dtype="float64")
    expected = np.zeros(9)
    for i, value in by_anchor.items():
        expected[i] = value * 9 / len(by_anchor)
    np.testing.assert_allclose(unreduced(labels, embeddings), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["mulsupcon", "any", "all", "jaccard"])
@pytest.mark.parametrize("labels", [np.zeros((3, 2), "int32"), np.array([[1, 0]], "int32")], ids=["unlabelled", "one"])
def test_keras_loss_without_positives_is_zero(kind, labels):
    embeddings = np.random.default_rng(0).normal(size=(len(labels), 4)).astype("float32")
    loss = losses.MultiLabelContrastiveLoss(positives=kind)
    assert loss(labels, embeddings).numpy() == 0.0
    np.testing.assert_array_equal(gradient(lambda rows: loss(labels, rows), embeddings), 0.0)


def test_keras_loss_with_an_embedding_of_zeros_has_a_finite_gradient():
    embeddings = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], "float32")
    loss = losses.MultiLabelContrastiveLoss()
    assert np.isfinite(gradient(lambda rows: loss(np.ones((3, 1), "float32"), rows), embeddings)).all()


def test_keras_loss_survives_saving(tmp_path):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    model.compile(optimizer="sgd", loss=losses.MultiLabelContrastiveLoss(positives="jaccard", temperature=0.3))
    model.save(tmp_path / "model.keras")
    problem = naive.random_problem(21, dimensions=5)
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(restored.loss, losses.MultiLabelContrastiveLoss)
    assert (restored.loss.positives, restored.loss.temperature) == ("jaccard", 0.3)
    history = restored.fit(problem["queries"], problem["labels"], batch_size=6, verbose=0)
    by_anchor = naive_in_batch(model.predict(problem["queries"], verbose=0), problem["labels"], "jaccard", 0.3)
    assert history.history["loss"][0] == pytest.approx(np.mean(list(by_anchor.values())), rel=1e-5)


# Wrong use

ROWS, KEYS = np.eye(2, 3), np.eye(4, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: losses.weighted_contrastive_loss(ROWS, np.eye(4, 5), np.ones((4, 2)), np.ones((2, 2))),
            "keys [K, D] and queries must agree on D. Received: D=5 in keys, D=3 in queries",
        ),
        (
            lambda: losses.weighted_contrastive_loss(ROWS, KEYS, np.ones((4, 2)), np.ones((2, 3))),
            "label_weights [B, C] and key_labels must agree on C. Received: C=3 in label_weights, C=2 in key_labels",
        ),
        (
            lambda: losses.supervised_contrastive_loss(ROWS, KEYS, np.ones((1, 4))),
            "positives [B, K] and queries must agree on B. Received: B=1 in positives, B=2 in queries",
        ),
        (
            lambda: losses.supervised_contrastive_loss(ROWS, KEYS, np.ones((2, 4)), key_mask=np.ones((4, 1), bool)),
            "key_mask must have the shape [K]. Received: shape=(4, 1)",
        ),
        (
            lambda: losses.supervised_contrastive_loss(ROWS, KEYS, np.ones((2, 4)), temperature=0.0),
            "temperature must be above 0. Received: temperature=0.0",
        ),
        (
            lambda: losses.weighted_contrastive_loss(ROWS, KEYS, np.ones((4, 2)), np.ones((2, 2)), temperature=-1.0),
            "temperature must be above 0. Received: temperature=-1.0",
        ),
        (
            lambda: losses.jaccard_positives(ROWS, KEYS, minimum=0.0),
            "minimum must lie in (0, 1]. Received: minimum=0.0",
        ),
        (
            lambda: losses.affinity_positives(ROWS, KEYS, power=0.0),
            "power must be above 0. Received: power=0.0",
        ),
        (
            lambda: losses.affinity_positives(ROWS, np.ones((4, 2))),
            "key_label_weights [K, C] and label_weights must agree on C. Received: C=2 in key_label_weights, C=3 in label_weights",
        ),
        (
            lambda: losses.own_key_positives(4, 2),
            "num_keys must be at least batch_size. Received: num_keys=2, batch_size=4",
        ),
        (
            lambda: losses.MultiLabelContrastiveLoss(positives="some"),
            "positives must be one of mulsupcon, any, all, jaccard. Received: positives='some'",
        ),
        (
            lambda: losses.MultiLabelContrastiveLoss(temperature=0.0),
            "temperature must be above 0. Received: temperature=0.0",
        ),
        (
            lambda: losses.MultiLabelContrastiveLoss()(np.ones((3, 2)), np.ones((4, 2))),
            "y_true [B, C] and y_pred must agree on B. Received: B=3 in y_true, B=4 in y_pred",
        ),
    ],
)
def test_wrong_use_is_one_line(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message
