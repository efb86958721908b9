"""The program of docs/method.md, word for word: two methods of a reader's own."""

import re

import keras
import numpy as np
import pytest

from mulsupcon_tf.losses.method import count
from mulsupcon_tf.losses.registry import build_method
from mulsupcon_tf.models.pretrainer import ContrastivePretrainer
from tests.conftest import REPOSITORY
from tests.helpers import naive_losses as naive
from tests.helpers.losses_of_problems import anchors_and_block, gradients, losses, losses_in_blocks

TEMPERATURE = 0.3


@pytest.fixture(scope="module")
def names():
    """What the program leaves."""
    page = (REPOSITORY / "docs" / "method.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len([line for line in program.splitlines() if line]) <= 25
    found: dict = {}
    exec(compile(program, "method.md", "exec"), found)
    return found


def naive_loss(problem, visible):
    """By the loop, of the equation above the program."""
    total, keys = 0.0, [key for key, seen in zip(problem["keys"], visible, strict=True) if seen]
    for query, labels in zip(problem["queries"], problem["labels"], strict=True):
        near = [key for key, other in zip(keys, problem["key_labels"][visible], strict=True) if (labels * other).any()]
        spread = TEMPERATURE * np.log(sum(np.exp(query @ key / TEMPERATURE) for key in keys))
        total += spread - 2 * query @ np.mean(near, axis=0)
    return total / len(problem["queries"])


def test_the_object_is_what_its_equation_says(names):
    problem, visible = naive.random_problem(11), np.arange(15) < 12
    method, expected = names["AlignAndSpread"](temperature=TEMPERATURE), naive_loss(problem, visible)
    np.testing.assert_allclose(losses(method, problem, key_mask=visible)["loss"], expected, rtol=1e-11)
    anchors, block = anchors_and_block(problem, visible)
    in_blocks = losses_in_blocks(method, anchors, block, [5, 10], count(anchors.labels))
    np.testing.assert_allclose(in_blocks["loss"], expected, rtol=1e-11)
    slopes = naive.central_differences(
        lambda queries: naive_loss(problem | {"queries": queries}, visible), problem["queries"]
    )
    got = gradients(method, problem, by=("queries",), key_mask=visible)["queries"]
    np.testing.assert_allclose(got, slopes, atol=1e-8)


def test_the_function_chooses_the_keys_that_share_two_labels(names):
    problem = naive.random_problem(12)
    positives = naive.positives_by(lambda own, other: len(own & other) >= 2, problem["labels"], problem["key_labels"])
    assert 0 < positives.mean() < 1
    expected = naive.supervised_contrastive(
        problem["queries"], problem["keys"], positives, temperature=TEMPERATURE, number=len(positives)
    )
    method = build_method(names["at_least_two"], temperature=TEMPERATURE)
    np.testing.assert_allclose(losses(method, problem)["loss"], expected, rtol=1e-11)


def test_the_model_trains_and_is_saved_and_either_form_makes_one(names, tmp_path):
    model, rng = names["model"], np.random.default_rng(0)
    views, labels = rng.normal(size=(2, 32, 103)).astype("float32"), (rng.random((32, 14)) < 0.4).astype("float32")
    model.compile("adam")
    before = model.backbone.get_weights()
    history = model.fit(tuple(views), labels, epochs=2, verbose=0).history
    assert np.isfinite(history["contrastive_loss"]).all()
    assert any((one != other).any() for one, other in zip(before, model.backbone.get_weights(), strict=True))
    model.save(tmp_path / "model.keras")
    twin = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(twin.method, names["AlignAndSpread"])
    np.testing.assert_array_equal(twin(views[0])["embedding"], model(views[0])["embedding"])
    other = ContrastivePretrainer(model.backbone, model.projection_head, 14, method=names["at_least_two"])
    assert other.method.positives is names["at_least_two"]
