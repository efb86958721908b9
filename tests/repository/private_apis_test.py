"""Private interfaces of other packages stand in one module only: read from the source."""

import ast
import pathlib

import mulsupcon_tf

PACKAGE = pathlib.Path(mulsupcon_tf.__file__).parent
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
HOME = "utils/private_apis.py"
PUBLIC_ALL_THE_SAME = {"_asdict", "_fields", "_make", "_replace", "_exit"}  # of named tuples, and of os
ROOMS = {"src", "python", "compiler", "core"}  # folders of Keras and TensorFlow that are not for others


def is_private(name):
    return name == "__internal__" or (
        name.startswith("_") and not name.startswith("__") and name not in PUBLIC_ALL_THE_SAME
    )


def defined(tree):
    """Names that a module gives to something: functions, classes, variables and attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return names


def foreign(source, own):
    """Private names of other packages in a source, given those that the package has defined itself."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            found.add(node.attr)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = names if isinstance(node, ast.Import) else [str(node.module)]
            if not modules[0].startswith("mulsupcon_tf"):
                private = {name for name in names if is_private(name)}
                found |= private | {module for module in modules if ROOMS & {*module.split(".")}}
    return found


OWN = set().union(*(defined(ast.parse(source)) for source in SOURCES.values()))


def test_no_other_module_uses_a_private_interface():
    assert {name: foreign(source, OWN) for name, source in SOURCES.items() if foreign(source, OWN)}.keys() == {HOME}


def test_a_private_interface_is_seen():
    for line, name in {
        "from keras.src.applications import resnet": "keras.src.applications",
        "import tensorflow.python.eager": "tensorflow.python.eager",
        "from tensorflow.compiler.xla import x_pb2": "tensorflow.compiler.xla",
        "from keras import _backend": "_backend",
        "tf.__internal__.distribute.anything()": "__internal__",
        "self._var_keys": "_var_keys",
        "layer.input._keras_history": "_keras_history",
    }.items():
        assert foreign(line, OWN) == {name}
    assert foreign("self._own = 1\nself._own\npair._replace(x=1)\nobject.__new__\nimport keras", {"_own"}) == set()


def test_there_is_something_in_the_module_for_them():
    assert len(foreign(SOURCES[HOME], OWN)) > 8
