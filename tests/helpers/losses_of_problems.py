"""The package's losses, and their gradients, of the problems that `naive_losses` makes; and the methods to try them on."""

import functools

import numpy as np
import tensorflow as tf

from mulsupcon_tf.losses.keys import HIDDEN, Anchors, KeyBlock, join
from mulsupcon_tf.losses.method import losses_on_arrays
from tests.helpers import naive_losses as naive

RECOVERY = {"alpha": 0.7, "beta": 0.02}
# Every method, with each of its forms. At the published σ the kernel of RLD is 0 on random keys.
CASES = [
    *(("cld", {"cld_kernel": kernel, **RECOVERY}) for kernel in ("negative", "softmax", "printed")),
    ("cld", {"own_distribution": "live", **RECOVERY}),
    ("rld", {"rbf_sigma": 0.5, **RECOVERY}),
    ("rld", {"rbf_sigma": 0.5, "own_distribution": "live", **RECOVERY}),
    ("mulsupcon", {}),
    ("mulsupcon", {"average": "anchor"}),
    *((name, {}) for name in ("any", "all", "jaccard", "self", "truth")),
]


def name_of(case):
    """For pytest."""
    return " ".join(str(part) for part in (case[0], *(value for key, value in case[1].items() if key not in RECOVERY)))


def problem_for(name, seed, **shape):
    """A random problem, with true distributions for the method that takes these."""
    problem = naive.random_problem(seed, **shape)
    return naive.with_true_distributions(problem) if name == "truth" else problem


def naive_losses(case, problem, **changes):
    """By the loops; a constant own distribution is the one that the problem's own key carries."""
    name, settings = case
    settings = dict(settings)
    if settings.pop("own_distribution", "constant") == "constant":
        changes["own_distributions"] = problem["key_distributions"]
    return naive.losses_of(name, problem, **settings, **changes)


def tensors_of(problem, dtype="float64"):
    """The arrays of a problem as tensors."""
    return {name: tf.constant(array, dtype) for name, array in problem.items()}


def losses(method, problem, *, key_mask=None, dtype="float64"):
    """Scalars by name, as tensors; the problem's values may be tensors that a tape watches."""
    values = {name: value if tf.is_tensor(value) else tf.constant(value, dtype) for name, value in problem.items()}
    return losses_on_arrays(method, **values, key_mask=key_mask)


def gradients(
    method, problem, name="loss", *, by=("queries", "distributions", "kernel"), key_mask=None, dtype="float64"
):
    """Arrays by the name of the variable; None where the loss does not depend on it."""
    values = tensors_of(problem, dtype)
    with tf.GradientTape() as tape:
        tape.watch([values[each] for each in by])
        loss = losses(method, values, key_mask=key_mask)[name]
    found = tape.gradient(loss, [values[each] for each in by])
    return {each: None if gradient is None else gradient.numpy() for each, gradient in zip(by, found, strict=True)}


def losses_in_blocks(method, anchors, block, places, whole):
    """The losses of keys that come in several blocks, which begin at `places` besides 0."""
    of_block = method.of_keys(anchors)
    ends = [*places, len(block.bias)]
    blocks = [KeyBlock(*(rows[first:end] for rows in block)) for first, end in zip([0, *places], ends, strict=True)]
    return method.losses(anchors, functools.reduce(join, map(of_block, blocks)), whole)


def anchors_and_block(problem, visible=None):
    """A problem in the form in which a method gets it."""
    values = tensors_of(problem)
    batch = len(problem["queries"])
    visible = np.ones(len(problem["keys"])) if visible is None else visible.astype(float)
    block = KeyBlock(
        values["keys"],
        values["key_labels"] * visible[:, None],
        values["key_distributions"],
        tf.constant((1 - visible) * HIDDEN),
    )
    anchors = Anchors(
        values["queries"], values["labels"], values["keys"][:batch], values["distributions"], values["kernel"]
    )
    return anchors, block


def some_anchors(anchors, first, end):
    """Those of some rows."""
    rows = (each[first:end] for each in anchors[:4])
    return Anchors(*rows, anchors.kernel)
