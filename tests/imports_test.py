"""Who imports whom, read from the source."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

import mulsupcon_tf

PACKAGE = pathlib.Path(mulsupcon_tf.__file__).parent
BINARIES = {f"mulsupcon_tf.{name}" for name in ("pretrain", "finetune", "evaluate", "embed", "export", "predict")}
PATHS = {
    ".".join(("mulsupcon_tf", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
MATHEMATICS = (
    "losses", "label_distribution", "metrics", "keras_metrics", "evaluation", "distribution_distances",
    "embedding_diagnostics", "nearest_neighbours", "key_statistics",
)  # fmt: skip
# What mathematics and datasets may stand on, beside each other.
GROUND = {
    f"mulsupcon_tf.{name}" for name in ("errors", "tensor_arguments", "atomic_file", "file_errors", "image_limits")
}
LIGHT = {
    "mulsupcon_tf.config",
    "mulsupcon_tf.settings",
    "mulsupcon_tf.default_settings",
    "mulsupcon_tf.command_line",
    "mulsupcon_tf.errors",
    "mulsupcon_tf.keras_settings",
    "mulsupcon_tf.datasets.registry",
}


def imported(name, *, module_level_only=False):
    """Full names of what a module imports; for `from a import b` both `a` and `a.b`, of which one may not exist."""
    tree = ast.parse(PATHS[name].read_text(encoding="utf-8"))
    nodes = list(tree.body) if module_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import, which this test does not follow"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own(names):
    return {name for name in names if name in PATHS and name != "mulsupcon_tf"}


def reachable(name, *, module_level_only):
    """Every name, of this package or not, that importing `name` leads to."""
    found, waiting = set(), [name]
    while waiting:
        for each in imported(waiting.pop(), module_level_only=module_level_only) - found:
            found.add(each)
            waiting += own({each})
    return found


def outside(names):
    return {name.partition(".")[0] for name in names}


def test_imports_run_one_way():
    order = graphlib.TopologicalSorter({name: own(imported(name)) - {name} for name in PATHS})
    order.prepare()  # raises CycleError, which names the modules


def test_there_is_something_to_look_at():
    assert len(PATHS) > 30
    assert "mulsupcon_tf.pretraining_losses" in own(imported("mulsupcon_tf.pretrainer"))
    assert "tensorflow" in outside(imported("mulsupcon_tf.command_line"))
    assert "tensorflow" not in outside(imported("mulsupcon_tf.command_line", module_level_only=True))


def test_only_the_binaries_touch_flags():
    touching = {name for name in PATHS if "absl" in outside(imported(name))}
    assert touching <= BINARIES | {"mulsupcon_tf.command_line"}
    users = {name for name in PATHS if "mulsupcon_tf.command_line" in imported(name)}
    assert users == BINARIES


def test_nothing_imports_a_binary():
    assert not [name for name in PATHS if imported(name) & BINARIES]


@pytest.mark.parametrize("name", sorted(LIGHT | BINARIES))
def test_what_answers_at_once_does_not_import_tensorflow(name):
    heavy = {"tensorflow", "keras", "sklearn", "h5py", "tensorboard", "tensorflow_datasets"}
    assert not outside(reachable(name, module_level_only=True)) & heavy


def test_datasets_never_import_tensorflow_or_the_trainer():
    for name in PATHS:
        if name.startswith("mulsupcon_tf.datasets"):
            names = reachable(name, module_level_only=False)
            assert not outside(names) & {"tensorflow", "keras"}, name
            assert {each for each in own(names) if not each.startswith("mulsupcon_tf.datasets")} <= GROUND, name


@pytest.mark.parametrize("name", MATHEMATICS)
def test_mathematics_does_not_need_the_trainer(name):
    names = reachable(f"mulsupcon_tf.{name}", module_level_only=False)
    assert "tensorflow" not in outside(names)
    assert own(names) <= GROUND | {f"mulsupcon_tf.{each}" for each in MATHEMATICS}


@pytest.mark.parametrize("name", ["losses", "label_distribution", "embedding_diagnostics", "nearest_neighbours"])
def test_losses_are_written_for_any_keras_backend(name):
    assert "tensorflow" not in outside(reachable(f"mulsupcon_tf.{name}", module_level_only=False))


def test_importing_the_light_modules_really_leaves_tensorflow_out():
    program = (
        f"import sys, {', '.join(sorted(LIGHT | BINARIES))}; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
