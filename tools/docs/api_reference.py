"""Writes docs/api.md: every public name with its signature and docstring, every binary with its flags.

python -m tools.docs.api_reference --output=docs/api.md
"""

import dataclasses
import importlib
import inspect
import itertools
import pathlib
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import (
    AppConfig,
    CheckConfig,
    EmbedConfig,
    EvaluateConfig,
    ExportConfig,
    GalleryConfig,
    PredictConfig,
    SearchConfig,
)
from mulsupcon_tf.utils import atomic_file
from tools.docs.old_names import OLD_NAMES

CONFIGS = {
    "check": CheckConfig,
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "embed": EmbedConfig,
    "export": ExportConfig,
    "predict": PredictConfig,
    "search": SearchConfig,
    "app": AppConfig,
}
# What Keras calls by itself, and what a training step is made of; a reader calls neither.
_NOT_CALLED = {
    "build",
    "get_config",
    "from_config",
    "compute_output_shape",
    "update_step",
    "add_variable",
    "reset_state",
    "compile_from_config",
    "get_build_config",
    "build_from_config",
    "written_by_forward_pass",
    "read_forward_state",
    "write_forward_state",
    "finish_step",
    "views_and_labels",
    "scaled",
    "decay_of",
}
_SECTIONS = {"Args:": "Arguments:", "Attributes:": "Attributes:", "Raises:": "Raises:", "Returns:": "Returns:"}
_COLUMNS = 76  # what a narrow page shows of a line of code
_INTRODUCTION = """# API reference

Made by `python -m tools.docs.api_reference` from the docstrings and the flags; a test keeps it up to date. Of a class, the
list of methods leaves out what it has from Keras.

Sizes: B anchors in a batch, K keys, Q those of them that a queue holds, C labels, D width of the embedding, R width of the
backbone, N samples, F features. Notation: r output of the backbone, z unit-norm embedding of an anchor, k of a key, y labels, d label
distribution, W weights of the layer that makes it, τ temperature, m momentum of the key encoder, A(i) the keys that anchor i is
compared with, P(i) those of them that share a label with it.

Contents: [Python](#python) · [flags](#flags) · [old names](#old-names)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """Settings of `tools/docs/api_reference.py`."""

    output: str = dataclasses.field(default="docs/api.md", metadata={"help": "Markdown file to write."})


def reference() -> str:
    """The text of the page."""
    import mulsupcon_tf

    homes: dict[str, list[str]] = {}
    for name in mulsupcon_tf.__all__:
        if name != "__version__":
            homes.setdefault(mulsupcon_tf._HOME_OF[name], []).append(name)
    parts = [_INTRODUCTION, "## Python\n"]
    for home in mulsupcon_tf._HOMES:
        path = home.replace(".", "/")
        parts.append(f"### {home}\n")
        parts.append(f"In [mulsupcon_tf/{path}.py](../mulsupcon_tf/{path}.py).\n")
        parts += [_entry(name, getattr(mulsupcon_tf, name)) for name in homes[home]]
        parts += _sources(importlib.import_module(f"mulsupcon_tf.{home}"))
    parts.append("## Flags\n")
    parts.append(
        "Of each command, such as `python -m mulsupcon_tf.pretrain`. Where no default stands, a flag is optional or its "
        "default depends on the data: `flags.txt` in the run directory says what it was. `check` takes those of `pretrain` too.\n"
    )
    parts.append(_flags("check, pretrain and finetune", TrainingConfig))
    parts.append(_flags("search and app", GalleryConfig))
    for binary, config_class in CONFIGS.items():
        parent = config_class.__base__
        inherited = dataclasses.fields(parent) if dataclasses.is_dataclass(parent) else ()
        parts.append(_flags(binary, config_class, without=inherited))
    parts.append("## Old names\n")
    parts.append("Of programs that were written with a draft of version 0.1.0.\n")
    parts.append("\n".join(["| before | now |", "|---|---|", *(f"| {old} | {new} |" for old, new in OLD_NAMES)]) + "\n")
    return "\n".join(parts)


def _entry(name: str, value: Any) -> str:
    text = [f"#### {name}\n", f"```python\n{name}{_signature(value, len(name))}\n```\n", *_described(value)]
    if inspect.isclass(value):
        methods = [_method(*each) for each in shown_methods(value).items()]
        methods += [f"- all of `{base.__name__}`" for base in value.__mro__[1:] if is_public(base)][:1]
        text += ["\n".join(["Methods and properties:\n", *methods]) + "\n"] if methods else []
    return "\n".join(text)


def is_public(value: type) -> bool:
    """Whether a class is one of the public names of the package."""
    import mulsupcon_tf

    return value.__module__ == f"mulsupcon_tf.{mulsupcon_tf._HOME_OF.get(value.__name__)}"


def shown_methods(value: type) -> dict[str, Any]:
    """The functions and properties with a docstring of our own that a user of a public class calls, by name.

    Of the classes above it those count that are not public themselves: what a public one has is said there.
    """
    found: dict[str, Any] = {}
    for base in itertools.takewhile(lambda base: base is value or not is_public(base), value.__mro__):
        if base.__module__.startswith("mulsupcon_tf."):
            found = vars(base) | found
    return {
        name: each
        for name, each in found.items()
        if (not name.startswith("_") or name == "__call__")
        and name not in _NOT_CALLED
        and (inspect.isfunction(each) or isinstance(each, property))
        and each.__doc__
    }


def _method(name: str, function: Any) -> str:
    """An item of a list, with a list of arguments, result and errors below it."""
    first, *others = (inspect.getdoc(function) or "").split("\n\n")
    call = f"{name}{'' if isinstance(function, property) else _parameters(function)}"
    lines = [f"- `{call}`: {' '.join(first.split())}"]
    for paragraph in others:
        title, _, body = paragraph.partition("\n")
        if title == "Returns:":
            lines.append(f"    - Returns: {' '.join(body.split())}")
        elif title in _SECTIONS:
            lines += [f"    - {'Raises ' if title == 'Raises:' else ''}{line}" for line in _items(body)]
    return "\n".join(lines)


def _signature(value: Any, indent: int) -> str:
    """The parameters, wrapped where they are many."""
    function = value.__init__ if inspect.isclass(value) else value
    if inspect.isclass(value) and function is Exception.__init__:
        return "(message)"
    parameters = _parameters(function)
    if indent + len(parameters) <= _COLUMNS:
        return parameters
    # No default is cut at a space inside it.
    whole = parameters[1:-1].replace(", ", ",\0").replace(" ", "\1").replace("\0", " ")
    lines = textwrap.wrap(whole, _COLUMNS - 4, break_long_words=False, break_on_hyphens=False)
    return "\n".join(["(", *(f"    {line}".replace("\1", " ") for line in lines), ")"])


def _parameters(function: Any) -> str:
    """Parameters without annotations, which the docstrings give better: with shapes."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return ""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def _described(value: Any) -> Iterator[str]:
    """A docstring as Markdown: paragraphs, then lists of arguments and errors."""
    for paragraph in (inspect.getdoc(value) or "").split("\n\n"):
        title, _, body = paragraph.partition("\n")
        if title not in _SECTIONS:
            yield f"{paragraph}\n"
        elif title == "Returns:":
            yield f"Returns: {' '.join(body.split())}\n"
        else:
            yield "\n".join([f"{_SECTIONS[title]}\n", *(f"- {line}" for line in _items(body))]) + "\n"


def _items(body: str) -> Iterator[str]:
    """The entries of a section, each on one line, their names as code."""
    for item in re.split(r"\n(?! )", textwrap.dedent(body)):
        yield re.sub(r"^(\*{0,2}[\w, ]+): ", r"`\1`: ", " ".join(item.split()))


def _sources(module: Any) -> Iterator[str]:
    """The numbered references of a module, which its docstrings cite."""
    _, _, references = (inspect.getdoc(module) or "").partition("References:\n")
    items = re.findall(r"^ *(\[\d+\](?:.(?!^ *\[))*)", references, flags=re.DOTALL | re.MULTILINE)
    if items:
        yield "\n".join(["Sources:\n", *(f"- {' '.join(item.split())}" for item in items)]) + "\n"


def _flags(title: str, config_class: type, without: Sequence[dataclasses.Field] = ()) -> str:
    lines = [f"### {title}\n", "| flag | default | what it is |", "|---|---|---|"]
    for field in dataclasses.fields(config_class):
        if field in without:
            continue
        default = (
            ""
            if field.default is None
            else f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
        )
        choices = field.metadata["choices"]
        text = field.metadata["help"] + (f" One of: {', '.join(choices)}." if choices else "")
        lines.append(f"| `--{field.name}` | {default} | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def main(config: ReferenceConfig) -> None:
    """Writes the page."""
    import_tensorflow_quietly()
    atomic_file.write_text(pathlib.Path(config.output), reference())
    print(f"reference: {config.output}")


if __name__ == "__main__":
    run_binary(ReferenceConfig, main, usage=__doc__)
