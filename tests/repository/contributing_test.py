"""CONTRIBUTING.md: its recipes are followed in a copy of the package, and what it says to be somewhere is there."""

import ast
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from mulsupcon_tf import __version__

REPOSITORY = pathlib.Path(__file__).parents[2]
PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")


def names_in(path):
    """Every name that a module defines, sets, takes, reads or spells out as a string."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        str(value)
        for node in ast.walk(tree)
        for key in ("name", "id", "attr", "arg", "value")
        if isinstance(value := getattr(node, key, None), str)
    }


def test_what_is_said_to_be_somewhere_is_there():
    table = PAGE.split("| looking for |")[1].split("\n\n")[0]
    places = re.findall(r"^\| [^|]+ \| `([^`]+)` \| `([^`]+)` \|$", table, flags=re.MULTILINE)
    assert len(places) == table.count("\n") - 1 >= 15
    assert [place for place in places if place[1] not in names_in(REPOSITORY / place[0])] == []


def parts_of(recipe):
    """Where the file of a recipe goes, what it says, its line, and the file and the table that the line goes into."""
    section = PAGE.split(f"## {recipe}\n")[1].split("\n## ")[0]
    file, line = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    path = re.search(r"One new file, `([^`]+)`", section)[1]
    table, registry = re.search(r"one line in `(\w+)` of `([^`]+)`", section).groups()
    return path, file, line, registry, table


def follow(recipe, root):
    """Writes the file of a recipe and inserts its line, in a copy of the repository's package."""
    path, file, line, registry, table = parts_of(recipe)
    assert not (root / path).exists() and line.count("\n") == 1
    (root / path).write_text(file, encoding="utf-8")
    text = (root / registry).read_text(encoding="utf-8")
    assert text.count(f"\n{table} = {{\n") == 1
    (root / registry).write_text(text.replace(f"\n{table} = {{\n", f"\n{table} = {{\n{line}"), encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A folder with a copy of the package in which all three recipes were followed."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(REPOSITORY / "mulsupcon_tf", root / "mulsupcon_tf", ignore=shutil.ignore_patterns("__pycache__"))
    for recipe in ("Add a dataset", "Add a backbone", "Add a method"):
        follow(recipe, root)
    return root


# Programs, each with its arguments, one after the other in forks of one process, which has imported TensorFlow.
PROGRAMS = """
import json, os, runpy, sys
from mulsupcon_tf.config.command_line import import_tensorflow_quietly
import_tensorflow_quietly()
for line in json.loads(sys.argv[1]):
    if not os.fork():
        sys.argv = line
        runpy.run_module(line[0], run_name="__main__", alter_sys=True)
        sys.exit()
    if os.wait()[1]:
        sys.exit(f"{line[0]} failed")
"""
NETWORK = ("--dataset=stripes", "--backbone=plain", "--image_size=24", "--batch_size=16")
COMMANDS = {
    "finetune": (*NETWORK, "--epochs=8", "--learning_rate=0.01"),
    "pretrain": (*NETWORK, "--bce_weight=0", "--method=superset", "--epochs=1", "--max_steps=2"),
}


@pytest.fixture(scope="module")
def runs(copy):
    """The lines of the log and the summary of each command of the copy."""
    lines = [[f"mulsupcon_tf.{name}", f"--workdir={name}", *flags] for name, flags in COMMANDS.items()]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    line = [sys.executable, "-c", PROGRAMS, json.dumps(lines)]
    done = subprocess.run(line, cwd=copy, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = {}
    for name in COMMANDS:
        records = (copy / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        summary = json.loads((copy / name / "summary.json").read_text("utf-8"))
        found[name] = [json.loads(record) for record in records], summary
    return found


def test_a_dataset_and_a_backbone_that_follow_the_recipes_are_trained(runs, copy):
    _, summary = runs["finetune"]
    assert summary["dataset"] == "stripes" and summary["label_names"] == ["horizontal", "vertical"]
    assert "--backbone=plain" in (copy / "finetune" / "flags.txt").read_text(encoding="utf-8").splitlines()
    assert summary["test"]["mAP"] > 0.9  # about 0.5 by chance


def test_a_method_that_follows_the_recipe_is_trained(runs):
    (record,), summary = runs["pretrain"]
    assert (summary["method"], summary["steps"]) == ("superset", 2)
    assert math.isfinite(record["loss"]) and record["loss"] == record["contrastive_loss"] > 0


def test_the_method_of_the_recipe_is_what_it_says():
    names = {}
    exec(compile(parts_of("Add a method")[1], "superset", "exec"), names)
    labels, key_labels = (np.random.default_rng(seed).integers(0, 2, (9, 3)) for seed in (0, 1))
    sets, key_sets = ([set(np.flatnonzero(row)) for row in rows] for rows in (labels, key_labels))
    expected = [[1.0 if own and own <= other else 0.0 for other in key_sets] for own in sets]
    assert {0.0, 1.0} == {value for row in expected for value in row} and set() in sets
    np.testing.assert_array_equal(np.asarray(names["superset_positives"](labels, key_labels)), expected)


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (__version__, "Apache-2.0")
    paper = citation["preferred-citation"]
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert paper["title"] in readme and paper["url"] in readme
    names = [author["family-names"] for author in paper["authors"]]
    assert f"{', '.join(names[:-1])} and {names[-1]}" in readme


def test_checks_before_a_commit_and_in_continuous_integration_are_those_of_make():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    lint = makefile.split("\nlint:")[1].split("\n\n")[0]
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["entry"].replace(".venv/bin", "@$(BIN)") for hook in hooks] == [
        line.strip().removesuffix(" .") for line in lint.splitlines() if "$(BIN)" in line
    ]
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    commands = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    assert commands == ["make test", "make docs"]
    assert all(re.search(rf"^{command.removeprefix('make ')}:", makefile, re.MULTILINE) for command in commands)
