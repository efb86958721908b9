"""Who imports whom, read from the source: the folders are floors, and imports go down only."""

import ast
import collections
import graphlib
import pathlib
import subprocess
import sys

import pytest

import mulsupcon_tf

PACKAGE = pathlib.Path(mulsupcon_tf.__file__).parent
PATHS = {
    ".".join(("mulsupcon_tf", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
# The highest first. A module imports from its own folder and from lower floors.
FLOORS = (
    (
        "check",
        "pretrain",
        "finetune",
        "evaluate",
        "embed",
        "export",
        "predict",
        "search",
        "app",
        "report",
        "experiment",
        "demo",
    ),
    ("commands", "reporting", "experiments"),
    ("training", "serving"),
    ("evaluation", "input_pipeline", "models", "optimizers"),
    ("config", "datasets", "losses"),
    ("utils",),
)
BINARIES = {f"mulsupcon_tf.{name}" for name in FLOORS[0]}
FLOOR_OF = {name: len(FLOORS) - number for number, names in enumerate(FLOORS) for name in names}
MOST_MODULES, MOST_LINES = 15, 300
HEAVY = {"tensorflow", "keras", "sklearn", "h5py", "tensorboard", "tensorflow_datasets", "matplotlib"}
LIGHT = (
    BINARIES | {"mulsupcon_tf.datasets.registry"} | {name for name in PATHS if name.startswith("mulsupcon_tf.config")}
)


def imported(name, *, module_level_only=False):
    """Full names of what a module imports; for `from a import b` both `a` and `a.b`, of which one may not exist."""
    return imports_of(PATHS[name].read_text(encoding="utf-8"), name, module_level_only=module_level_only)


def imports_of(source, name, *, module_level_only=False):
    tree = ast.parse(source)
    names: set[str] = set()
    for node in list(tree.body) if module_level_only else list(ast.walk(tree)):
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


def room_of(name):
    """The folder of a module, or the name of a binary."""
    return name.split(".")[1]


def rises(name, names):
    """Those of the imported names that lie on a higher floor, in another folder of the same one, or in a folder that is not around."""
    here = room_of(name)
    return {
        each
        for each in names
        if PATHS[each].name != "__init__.py"
        and (
            not PATHS[name].is_relative_to(PATHS[each].parent)
            if room_of(each) == here
            else FLOOR_OF[room_of(each)] >= FLOOR_OF[here]
        )
    }


def test_every_module_lies_in_a_room_of_a_floor():
    rooms = {room_of(name) for name in PATHS if name not in ("mulsupcon_tf", "mulsupcon_tf.__main__")}
    assert rooms == set(FLOOR_OF)


@pytest.mark.parametrize("name", sorted(PATHS.keys() - {"mulsupcon_tf", "mulsupcon_tf.__main__"}))
def test_imports_go_down(name):
    assert rises(name, own(imported(name))) == set()


def test_an_import_that_rises_is_seen():
    source = "from mulsupcon_tf.training import loop\nfrom mulsupcon_tf.utils.errors import InputError\n"
    names = own(imports_of(source, "mulsupcon_tf.losses.positives"))
    assert rises("mulsupcon_tf.losses.positives", names) == {"mulsupcon_tf.training.loop"}


def test_a_folder_imports_from_the_one_around_it_and_not_the_other_way():
    around, coco, arff = (f"mulsupcon_tf.datasets.{name}" for name in ("splitting", "images.coco", "vectors.arff"))
    assert rises(coco, {around, "mulsupcon_tf.datasets.images.image_objects"}) == set()
    assert rises(around, {coco, "mulsupcon_tf.datasets.base"}) == {coco}
    assert rises(coco, {arff}) == {arff}


def test_imports_run_one_way():
    order = graphlib.TopologicalSorter({name: own(imported(name)) - {name} for name in PATHS})
    order.prepare()  # raises CycleError, which names the modules


def test_no_room_is_crowded():
    numbers = collections.Counter(path.parent for path in PATHS.values() if path.stem != "__init__")
    del numbers[PACKAGE]  # the programs
    assert len(numbers) > 10
    assert {str(room): number for room, number in numbers.items() if number > MOST_MODULES} == {}


def test_no_module_is_long():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in PATHS.items()}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_the_top_has_binaries_and_rooms_only():
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert files == set(FLOORS[0])


def test_a_room_names_itself_and_imports_nothing():
    for name, path in PATHS.items():
        if path.name == "__init__.py" and name != "mulsupcon_tf":
            assert imported(name) == set(), name
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), name


def test_there_is_something_to_look_at():
    assert len(PATHS) > 30
    assert "tensorflow" in outside(imported("mulsupcon_tf.config.command_line"))
    assert "tensorflow" not in outside(imported("mulsupcon_tf.config.command_line", module_level_only=True))


def test_only_the_binaries_touch_flags():
    touching = {name for name in PATHS if "absl" in outside(imported(name))}
    assert touching <= BINARIES | {"mulsupcon_tf.config.command_line"}
    users = {name for name in PATHS if "mulsupcon_tf.config.command_line.run_binary" in imported(name)}
    assert users == BINARIES


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_what_answers_at_once_does_not_import_tensorflow(name):
    assert not outside(reachable(name, module_level_only=True)) & HEAVY


def test_datasets_never_import_tensorflow():
    for name in PATHS:
        if name.startswith("mulsupcon_tf.datasets"):
            assert not outside(reachable(name, module_level_only=False)) & {"tensorflow", "keras"}, name


@pytest.mark.parametrize("room", ["losses", "evaluation"])
def test_losses_and_metrics_are_written_for_any_keras_backend(room):
    names = [name for name in PATHS if name != "mulsupcon_tf" and room_of(name) == room]
    assert len(names) > 5
    for name in names:
        assert "tensorflow" not in outside(reachable(name, module_level_only=False)), name


def test_importing_the_light_modules_really_leaves_tensorflow_out():
    program = f"import sys, {', '.join(sorted(LIGHT))}; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
