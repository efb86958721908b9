"""How the sources are laid out, and what their messages and the pages say."""

import ast
import dataclasses
import pathlib
import re

from mulsupcon_tf.config.flags import FinetuneConfig
from mulsupcon_tf.config.program_flags import (
    CheckConfig,
    EmbedConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    SearchConfig,
)

REPOSITORY = pathlib.Path(__file__).parents[2]
SOURCES = [path for folder in ("mulsupcon_tf", "tools", "tests") for path in (REPOSITORY / folder).rglob("*.py")]
PRODUCT = [path for path in SOURCES if "tests" not in path.relative_to(REPOSITORY).parts]
PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]


def text_of(path):
    return path.read_text(encoding="utf-8")


def test_hardly_anything_is_laid_out_by_hand():
    """Comments that switch the formatter off are for tables of values, whose rows say something.

    They used to stand at over a hundred calls that had too many arguments: a sign that an object should be handed on.
    """
    comment = re.compile(r"#\s*fmt: ?(?:skip|off)")
    found = [f"{path.relative_to(REPOSITORY)}" for path in SOURCES for _ in comment.findall(text_of(path))]
    assert 0 < len(found) <= 12, found


def test_no_program_of_the_maintainers_is_long():
    """As in the package, where a test of the imports counts."""
    lengths = {path.name: text_of(path).count("\n") for path in (REPOSITORY / "tools").rglob("*.py")}
    assert len(lengths) > 10
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_the_package_is_installed_from_the_checkout():
    """The name is not on the package index, where somebody else could take it: pages and messages install `'.[extra]'`."""
    assert len(PAGES) > 20
    texts = [text_of(path) for path in [*PAGES, *PRODUCT]]
    commands = [command for text in texts for command in re.findall(r"pip3? install[^\n`\"]*", text)]
    with_extras = [command for command in commands if "[" in command]
    assert len(with_extras) > 5
    assert [each for each in with_extras if not re.search(r" '(\.|dist/[\w.-]+\.whl)\[[a-z,]+\]'", each)] == []
    assert [each for each in commands if re.search(r" '?mulsupcon[-_]tf", each)] == []


def test_docstrings_say_what_a_thing_is_or_does():
    """One voice throughout: "Reads a table" or "A table", not the command "Read a table"."""
    commands = (
        "Add Build Cast Check Compute Convert Draw Find Get Give Lay Load Make Put Raise Read Return Set Take Write"
    )
    first_words = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node)):
                first_words.setdefault(text.split()[0], []).append(f"{path.relative_to(REPOSITORY)}: {text[:60]}")
    assert len(first_words) > 100
    assert [place for word in commands.split() for place in first_words.get(word, [])] == []


def test_words_that_readers_stumbled_over_stay_away():
    """Data are reported, not told; keys count, they do not weigh; cells hold spaces, not blanks; a page has a notation."""
    riddle = re.compile(
        r"\b(?:(?:is|are|was|were) told|weighs|blanks|the way in|chief's word|leave together|search train|holds? those to)\b"
        r"|\bLetters:"
    )
    found = {str(path.relative_to(REPOSITORY)): riddle.findall(text_of(path)) for path in [*PAGES, *PRODUCT]}
    assert {path: words for path, words in found.items() if words} == {}


def test_what_a_message_calls_a_flag_is_the_name_of_a_setting_in_python():
    """A message serves the command line, where `--data_dir` is a flag, and Python, where it is an argument or a field."""
    configs = (CheckConfig, FinetuneConfig, EvaluateConfig, EmbedConfig, ExportConfig, PredictConfig, SearchConfig)
    settings = {field.name for config in configs for field in dataclasses.fields(config)}
    used = {}
    for floor in (
        "utils",
        "datasets",
        "losses",
        "models",
        "evaluation",
        "input_pipeline",
        "optimizers",
        "training",
        "serving",
    ):
        for path in (REPOSITORY / "mulsupcon_tf" / floor).rglob("*.py"):
            raised = [node for node in ast.walk(ast.parse(text_of(path))) if isinstance(node, ast.Raise)]
            texts = [part for each in raised for part in ast.walk(each) if isinstance(part, ast.Constant)]
            for text in (part.value for part in texts if isinstance(part.value, str)):
                used |= dict.fromkeys(re.findall(r"--(?!name=value)([a-z]\w+)", text), path.name)
    assert len(used) > 15
    assert {name: place for name, place in used.items() if name not in settings} == {}


def test_a_place_that_a_docstring_or_a_comment_names_is_there():
    """`module.name`, where the package has such a module."""
    trees = {path: ast.parse(text_of(path)) for path in PRODUCT if path.is_relative_to(REPOSITORY / "mulsupcon_tf")}
    names: dict[str, set[str]] = {}
    for path, tree in trees.items():
        module = names.setdefault(path.stem, set())
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            module |= {target.id for target in targets if isinstance(target, ast.Name)}
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                module.add(node.name)
    folders = {path.name for path in (REPOSITORY / "mulsupcon_tf").iterdir() if path.is_dir()}
    named = [
        (module, name, path.name)
        for path in trees
        for module, name in re.findall(r"`([a-z_]\w+)\.(\w+)`", text_of(path))
        if module in names.keys() - folders and name not in ("py", "txt", "json", "jsonl", "NAME", "load")
    ]
    assert len(named) > 5
    assert [place for place in named if place[1] not in names[place[0]]] == []
