import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.losses.in_batch import MultiLabelContrastiveLoss
from mulsupcon_tf.utils.errors import InputError
from tests.helpers import naive_losses as naive


def gradient(function, point):
    variable = tf.Variable(point)
    with tf.GradientTape() as tape:
        loss = function(variable)
    return tape.gradient(loss, variable).numpy()


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
    loss = MultiLabelContrastiveLoss(positives=kind, temperature=0.2, dtype="float64")
    by_anchor = naive_in_batch(embeddings, labels, kind, 0.2)
    assert 0 < len(by_anchor) < 9
    np.testing.assert_allclose(loss(labels, embeddings), np.mean(list(by_anchor.values())), rtol=1e-12)

    got = gradient(lambda rows: loss(labels, rows), embeddings)
    expected = naive.central_differences(
        lambda rows: np.mean(list(naive_in_batch(rows, labels, kind, 0.2).values())), embeddings
    )
    np.testing.assert_allclose(got, expected, atol=1e-8)

    unreduced = MultiLabelContrastiveLoss(positives=kind, temperature=0.2, reduction=None, dtype="float64")
    expected = np.zeros(9)
    for i, value in by_anchor.items():
        expected[i] = value * 9 / len(by_anchor)
    np.testing.assert_allclose(unreduced(labels, embeddings), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["mulsupcon", "any", "all", "jaccard"])
@pytest.mark.parametrize("labels", [np.zeros((3, 2), "int32"), np.array([[1, 0]], "int32")], ids=["unlabelled", "one"])
def test_keras_loss_without_positives_is_zero(kind, labels):
    embeddings = np.random.default_rng(0).normal(size=(len(labels), 4)).astype("float32")
    loss = MultiLabelContrastiveLoss(positives=kind)
    assert loss(labels, embeddings).numpy() == 0.0
    np.testing.assert_array_equal(gradient(lambda rows: loss(labels, rows), embeddings), 0.0)


def test_keras_loss_with_an_embedding_of_zeros_has_a_finite_gradient():
    embeddings = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], "float32")
    loss = MultiLabelContrastiveLoss()
    assert np.isfinite(gradient(lambda rows: loss(np.ones((3, 1), "float32"), rows), embeddings)).all()


def test_keras_loss_survives_saving(tmp_path):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    model.compile(optimizer="sgd", loss=MultiLabelContrastiveLoss(positives="jaccard", temperature=0.3))
    model.save(tmp_path / "model.keras")
    problem = naive.random_problem(21, dimensions=5)
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(restored.loss, MultiLabelContrastiveLoss)
    assert (restored.loss.positives, restored.loss.temperature) == ("jaccard", 0.3)
    history = restored.fit(problem["queries"], problem["labels"], batch_size=6, verbose=0)
    by_anchor = naive_in_batch(model.predict(problem["queries"], verbose=0), problem["labels"], "jaccard", 0.3)
    assert history.history["loss"][0] == pytest.approx(np.mean(list(by_anchor.values())), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: MultiLabelContrastiveLoss(positives="some"),
            "positives must be one of mulsupcon, any, all, jaccard. Received: positives=some",
        ),
        (lambda: MultiLabelContrastiveLoss(temperature=0.0), "temperature must be above 0. Received: temperature=0.0"),
        (
            lambda: MultiLabelContrastiveLoss()(np.ones((3, 2)), np.ones((4, 2))),
            "y_true [B, C] and y_pred must agree on B. Received: B=3 in y_true, B=4 in y_pred",
        ),
    ],
)
def test_wrong_use_is_one_line(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize("kind", ["mulsupcon", "any", "all", "jaccard"])
def test_an_unknown_label_is_not_taken_for_an_absent_one(kind):
    labels = np.eye(4, 3)[[0, 1, 0, 1]]
    labels[2, 2] = np.nan
    assert np.isnan(MultiLabelContrastiveLoss(kind)(labels, np.eye(4)))
