"""What a user reads of a public name says what it takes, gives and raises."""

import ast
import dataclasses
import importlib
import inspect
import pathlib
import re
import textwrap

import pytest

import mulsupcon_tf
from tools.docs.api_reference import is_public, shown_methods

REPOSITORY = pathlib.Path(__file__).parents[3]
CHECKS = re.compile(r"require_\w+|float_tensors")  # of utils: they raise `InputError`


def public_values():
    return {name: getattr(mulsupcon_tf, name) for name in mulsupcon_tf.__all__ if name != "__version__"}


def values_of_the_table():
    """What CONTRIBUTING.md names as the home of something, but for constants and tests."""
    table = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8").split("| looking for |")[1].split("\n\n")[0]
    found = {}
    for path, name in re.findall(r"\| `((?!tests/)[^`]+)\.py` \| `([^`]+)` \|$", table, flags=re.MULTILINE):
        value = getattr(importlib.import_module(path.replace("/", ".")), name, None)
        found |= {f"{path}: {name}": value} if callable(value) else {}
    return found


def callables():
    """Functions by name, each with the docstrings that are read for it, the own one last: of a constructor that of its class."""
    for name, value in (values_of_the_table() | public_values()).items():
        if not inspect.isclass(value):
            yield name, value, [inspect.getdoc(value)]
            continue
        if (
            inspect.isfunction(value.__init__)
            and not dataclasses.is_dataclass(value)
            and value.__init__.__module__.startswith("mulsupcon_tf.")
        ):
            yield name, value.__init__, [inspect.getdoc(value)]
        for method, function in shown_methods(value).items() if ":" not in name else ():
            if inspect.isfunction(function):
                # An override of a public class's method says how it differs.
                above = [vars(base).get(method) for base in value.__mro__[1:] if is_public(base)]
                yield f"{name}.{method}", function, [inspect.getdoc(each) for each in (*above, function) if each]


def own_nodes(function):
    """The nodes of a function's body, but for those of the functions in it."""
    waiting = list(ast.parse(textwrap.dedent(inspect.getsource(function))).body[0].body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def named(node):
    return getattr(node, "id", getattr(node, "attr", ""))


def refuses(node):
    """Whether it raises an error of input, or calls what does."""
    if isinstance(node, ast.Raise):
        return isinstance(node.exc, ast.Call) and named(node.exc.func) in ("InputError", "ValueError")
    return isinstance(node, ast.Call) and bool(CHECKS.fullmatch(named(node.func)))


def sections_of(text):
    return re.findall(r"^(Args|Returns|Raises):\n((?:(?: .*)?(?:\n|$))+)", text, flags=re.MULTILINE)


def lacking(function, texts):
    """What docstrings do not say of a function, or the last one says twice."""
    titles = [title for title, _ in sections_of(texts[-1])]
    yield from (f"{title} once" for title in dict.fromkeys(titles) if titles.count(title) > 1)
    sections = dict(section for text in texts for section in sections_of(text))
    parameters = [str(each).split(":")[0].split("=")[0] for each in inspect.signature(function).parameters.values()]
    described = re.findall(r"^    (\*{0,2}\w+)(?=: )", sections.get("Args", ""), flags=re.MULTILINE)
    for parameter in parameters:
        if parameter not in ("self", "cls", *described):
            yield f"Args: {parameter}"
    nodes = list(own_nodes(function))
    if "Raises" not in sections and any(map(refuses, nodes)):
        yield "Raises"
    values = [node.value for node in nodes if isinstance(node, ast.Return) and node.value is not None]
    if "Returns" not in sections and any(getattr(value, "value", value) is not None for value in values):
        yield "Returns"


def test_docstrings_say_what_is_taken_given_and_raised():
    found = {name: list(lacking(function, texts)) for name, function, texts in callables()}
    assert len(found) > 100
    assert {name: missing for name, missing in found.items() if missing} == {}


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("Halves.", ["Args: number", "Raises", "Returns"]),
        ("Halves.\n\nArgs:\n    number: even.\n\nReturns:\n    Half of it.", ["Raises"]),
        (
            "Halves.\n\nArgs:\n    number: even.\n\nReturns:\n    It.\n\nArgs:\n    number: even.",
            ["Args once", "Raises"],
        ),
        (
            "Halves.\n\nArgs:\n    other: even.\n\nReturns:\n    Half.\n\nRaises:\n    InputError: odd.",
            ["Args: number"],
        ),
        ("Halves.\n\nArgs:\n    number: even.\n\nReturns:\n    Half.\n\nRaises:\n    InputError: odd.", []),
    ],
)
def test_what_a_docstring_lacks_is_found(text, missing):
    def half(number):
        if number % 2:
            raise mulsupcon_tf.InputError(f"number must be even. Received: number={number}")
        return number // 2

    assert list(lacking(half, [text])) == missing
