"""All programs under one name: `mulsupcon COMMAND`, which is `python -m mulsupcon_tf COMMAND`."""

import importlib
import re
import sys
import textwrap

import mulsupcon_tf
from mulsupcon_tf.config.command_line import HELP_FLAGS, ending_in_one_line, stop
from mulsupcon_tf.config.flag_files import flag_file_names, package_file
from mulsupcon_tf.datasets.registry import dataset_kind, dataset_names
from mulsupcon_tf.utils.wording import nearest

# In the order in which one meets them.
COMMANDS = (
    "demo",
    "check",
    "pretrain",
    "finetune",
    "evaluate",
    "report",
    "embed",
    "export",
    "predict",
    "search",
    "app",
    "experiment",
)
_KINDS = {"image": "images", "vector": "vectors", None: "either"}
_WIDTH = 100


def overview() -> str:
    """What there is: each command with a line about it, the datasets, the flag files by the command that takes them."""
    commands = {name: str(importlib.import_module(f"mulsupcon_tf.{name}").__doc__).splitlines()[0] for name in COMMANDS}
    datasets = {
        title: ", ".join(name for name in dataset_names() if dataset_kind(name) == kind)
        for kind, title in _KINDS.items()
    }
    files = {command: ", ".join(names) for command, names in flag_files_by_command().items()}
    return "\n".join(
        [
            f"mulsupcon {mulsupcon_tf.__version__}: multi-label contrastive representation learning on Keras 3",
            "",
            "  mulsupcon COMMAND --name=value ...    the same as: python -m mulsupcon_tf COMMAND ...",
            "  mulsupcon COMMAND --help              examples, and every flag of the command",
            *_section("Commands", commands),
            *_section("Datasets, for --dataset=NAME", datasets),
            *_section("Flag files, for --flagfile=@NAME", files),
        ]
    )


def flag_files_by_command() -> dict[str, list[str]]:
    """The names of the package's flag files; a file's first line tells which command takes it."""
    found: dict[str, list[str]] = {command: [] for command in COMMANDS}
    for name in flag_file_names():
        with package_file(name).open(encoding="utf-8") as lines:
            match = re.match(r"# python -m mulsupcon_tf\.(\w+) ", next(lines))
        if match:  # the others belong to programs of maintainers
            found[match[1]].append(name)
    return {command: names for command, names in found.items() if names}


def _section(title: str, texts: dict[str, str]) -> list[str]:
    indent = max(map(len, texts)) + 4
    wrapped = [
        textwrap.fill(
            text,
            _WIDTH,
            initial_indent=f"  {name:<{indent - 2}}",
            subsequent_indent=" " * indent,
            break_on_hyphens=False,
        )
        for name, text in texts.items()
    ]
    return ["", f"{title}:", *wrapped]


def run() -> None:
    """Entry point of the console script `mulsupcon`."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in HELP_FLAGS:
        with ending_in_one_line():
            print(overview())
        return
    if command not in COMMANDS:
        stop(
            f"A command must be one of {', '.join(COMMANDS)}. "
            f"Received: {command} (nearest: {nearest(command, COMMANDS)})"
        )
    sys.argv = [f"mulsupcon {command}", *arguments]
    importlib.import_module(f"mulsupcon_tf.{command}").run()


if __name__ == "__main__":
    run()
