"""What the pages of docs/ and the README name exists: commands, flags, files, sections, messages, public names."""

import ast
import dataclasses
import pathlib
import re

import pytest

import mulsupcon_tf
from mulsupcon_tf.config.backbones import BACKBONES
from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.datasets.registry import dataset_names
from mulsupcon_tf.training.progress_bar import SHOWN_IN_BAR
from mulsupcon_tf.training.tensorboard import GROUPS
from mulsupcon_tf.utils.choices import METHODS
from tools.docs.api_reference import CONFIGS

REPOSITORY = pathlib.Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "BUILD.md", *sorted(DOCS.glob("*.md"))]
# What GitHub shows of a line of code beside its side bar in a window of 1000 pixels.
COLUMNS_OF_GITHUB = 65
OF_ABSL = {"flagfile", "help"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def names_of_flags(config_class):
    return {field.name for field in dataclasses.fields(config_class)}


def path_of(module):
    """The file that `python -m MODULE` runs."""
    path = REPOSITORY.joinpath(*module.split("."))
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def flags_of_programs():
    """Fields of the settings of each program whose settings stand in its own file, by module, read from the source."""
    found = {}
    for path in [*(REPOSITORY / "tools").rglob("*.py"), *(REPOSITORY / "mulsupcon_tf").glob("*.py")]:
        classes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ClassDef)]
        found[path] = {
            str(part.target.id)
            for each in classes
            if each.name.endswith("Config")
            for part in each.body
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
        }
    return found


def text_of(page):
    return page.read_text(encoding="utf-8")


def commands_of(page):
    """Command lines of a page, continued lines joined: (module or script, words after it)."""
    text = re.sub(r"\\\n\s*", " ", text_of(page))
    pattern = r"python -m ((?:mulsupcon_tf|tools)(?:\.\w+)+)([^\n`#|&)]*)"
    # What is quoted are flags for another program.
    return [(module, re.sub(r'"[^"]*"', "", rest).split()) for module, rest in re.findall(pattern, text)]


def test_pages_name_commands():
    assert sum(len(commands_of(page)) for page in PAGES) > 20


@every_page
def test_commands_and_their_flags_exist(page):
    programs = flags_of_programs()
    for program, words in commands_of(page):
        assert path_of(program).is_file(), program
        name = program.removeprefix("mulsupcon_tf.")
        known = names_of_flags(CONFIGS[name]) if name in CONFIGS else programs[path_of(program)]
        for word in words:
            match = re.match(r"--(\w+)", word)
            if match:
                assert match[1] in known | OF_ABSL, f"{page.name}: {program} {word}"


@every_page
def test_flags_in_running_text_exist(page):
    known = set().union(*map(names_of_flags, CONFIGS.values()), *flags_of_programs().values()) | OF_ABSL
    known |= {"logdir", "name"}  # TensorBoard's, and the one that stands for any
    code = " ".join(re.findall(r"`[^`\n]*`", text_of(page)))
    for name in re.findall(r"(?<![\w-])--([a-z]\w+)(?=[=`,\s\]])", code):
        assert name in known or is_of_another_program(page, name), f"{page.name}: --{name}"


def is_of_another_program(page, name):
    """Flags of schedulers, containers and pip; only where the page is about those."""
    return page.name in ("clusters.md", "scaling.md", "reliability.md", "serving.md", "why_not_addons.md")


@every_page
def test_flagfiles_that_are_named_exist(page):
    for name in re.findall(r"flags/(\w+)\.flags", text_of(page)):
        assert (REPOSITORY / "flags" / f"{name}.flags").is_file(), name


@every_page
def test_modules_and_tests_that_are_named_exist(page):
    text = re.sub(r"One new file, `[^`]+`", "", text_of(page))  # what a recipe makes
    for name in re.findall(r"`((?:\w+/)+\w+\.(?:py|sh|flags|css))`", text):
        assert (REPOSITORY / name).is_file() or (REPOSITORY / "mulsupcon_tf" / name).is_file(), f"{page.name}: {name}"
    tests = {path.stem for path in (REPOSITORY / "tests").rglob("*_test.py")}
    assert set(re.findall(r"`(\w+_test)`", text)) <= tests


def anchors_of(page):
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@every_page
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors_of(file), f"{page.name}: {target}"


def test_what_is_said_of_speed_in_short_stands_below_and_on_the_pages_it_names():
    before, section, after = re.split("## In short\n|\n## Loss core", text_of(DOCS / "performance.md"))
    pages = before + after + "".join(text_of(page) for page in sorted(DOCS.glob("performance_*.md")))
    numbers = re.findall(r"\d+\.\d+|\d{2,}", re.sub(r"\]\([^)]*\)", "", section))
    assert len(numbers) > 15
    assert not [number for number in numbers if not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]\d)", pages)]


def test_the_readme_is_short_and_no_line_of_code_is_cut():
    assert len(text_of(README).splitlines()) <= 120
    blocks = re.findall(r"```\w*\n(.*?)```", text_of(README), flags=re.DOTALL)
    assert len(blocks) > 4
    assert [line for block in blocks for line in block.splitlines() if len(line) > COLUMNS_OF_GITHUB] == []


@pytest.mark.parametrize(
    ("page", "names"),
    [(README, METHODS), (DOCS / "backbones.md", BACKBONES), (DOCS / "datasets.md", dataset_names())],
    ids=["methods", "backbones", "datasets"],
)
def test_the_table_of_what_a_flag_chooses_is_complete(page, names):
    cells = " ".join(re.findall(r"^\| (`[^|]*) \|", text_of(page), flags=re.MULTILINE))
    assert [name for name in names if f"`{name}`" not in cells] == []


def test_index_and_site_list_every_page():
    pages = {page.name for page in DOCS.glob("*.md")} - {"index.md"} | {"BUILD.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert set(re.findall(r"\]\((?:\.\./)?(\w+\.md)\)", text_of(DOCS / "index.md"))) == pages
    site = text_of(REPOSITORY / "mkdocs.yml").split("\nnav:")[1].split("\ntheme:")[0]
    assert set(re.findall(r": (\w+\.md)$", site, flags=re.MULTILINE)) == pages | {"index.md"}


def messages():
    """Every text in the source of package and tools, what is filled in as "…"."""
    found = []
    for path in [*(REPOSITORY / "mulsupcon_tf").rglob("*.py"), *(REPOSITORY / "tools").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(map(str, parts)))
    return "\n".join(found)


def test_messages_that_are_explained_are_those_of_the_source():
    table = text_of(DOCS / "troubleshooting.md").partition("| message |")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE)
    source = messages()
    assert len(explained) > 15
    # The name of the table of photos is a constant that is filled in.
    assert [text for text in explained if text.replace("labels.csv", "…") not in source and text not in source] == []


def test_every_curve_has_its_place_on_the_page_about_monitoring():
    page = text_of(DOCS / "monitoring.md")
    for name in (*(name for names in GROUPS.values() for name in names), *SHOWN_IN_BAR):
        assert f"`{name}`" in page or name == "val_loss", name


def test_the_api_reference_has_every_public_name_and_every_flag():
    page = text_of(DOCS / "api.md")
    assert [name for name in mulsupcon_tf.__all__ if name != "__version__" and f"\n#### {name}\n" not in page] == []
    for config_class in (*CONFIGS.values(), TrainingConfig):
        assert [name for name in names_of_flags(config_class) if f"`--{name}`" not in page] == []
