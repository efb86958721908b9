"""Writes docs/api.md: every public name with its signature and first line, every binary with its flags.

python -m tools.docs.api_reference --output=docs/api.md
"""

import dataclasses
import inspect
import pathlib
from typing import Any

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import EmbedConfig, EvaluateConfig, ExportConfig, PredictConfig
from mulsupcon_tf.utils import atomic_file

CONFIGS = {
    "pretrain": PretrainConfig, "finetune": FinetuneConfig, "evaluate": EvaluateConfig, "embed": EmbedConfig,
    "export": ExportConfig, "predict": PredictConfig,
}  # fmt: skip
# What Keras calls by itself on a layer, a model, a metric or a loss; a reader does not call it.
_CALLED_BY_KERAS = {
    "build", "call", "get_config", "from_config", "compute_output_shape", "update_step", "add_variable", "update_state",
    "result", "reset_state", "compile_from_config", "get_build_config", "build_from_config",
}  # fmt: skip
_INTRODUCTION = """# API reference

Made by `python -m tools.docs.api_reference` from the docstrings; a test holds it up to date. The full docstring, with arguments, shapes and
errors, is in the source (`help(mulsupcon_tf.NAME)`). Letters: B anchors, K keys, C labels, D embedding width, R backbone width.

Contents: [Python](#python) · [flags of the binaries](#flags-of-the-binaries)
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
        parts.append(f"### [mulsupcon_tf/{path}.py](../mulsupcon_tf/{path}.py)\n")
        parts += [_entry(name, getattr(mulsupcon_tf, name)) for name in homes[home]]
    parts.append("## Flags of the binaries\n")
    parts += [_flags(binary, config_class) for binary, config_class in CONFIGS.items()]
    return "\n".join(parts)


def _entry(name: str, value: Any) -> str:
    lines = [f"**`{name}{_signature(value)}`**<br>", _first_line(value)]
    if inspect.isclass(value):
        for method, function in vars(value).items():
            shown = inspect.isfunction(function) and not method.startswith("_") and method not in _CALLED_BY_KERAS
            if shown and function.__doc__:
                lines.append(f"- `{method}{_signature(function)}`: {_first_line(function)}")
            elif isinstance(function, property) and not method.startswith("_") and function.__doc__:
                lines.append(f"- `{method}`: {_first_line(function)}")
    entry, *methods = "\n".join(lines[:2]), *lines[2:]
    return entry + "\n" + ("\n" + "\n".join(methods) + "\n" if methods else "")


def _signature(value: Any) -> str:
    """Parameters without annotations, which the docstrings give better: with shapes."""
    function = value.__init__ if inspect.isclass(value) else value
    if inspect.isclass(value) and function is Exception.__init__:
        return "(message)"
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


def _first_line(value: Any) -> str:
    return (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")


def _flags(binary: str, config_class: type) -> str:
    lines = [f"### python -m mulsupcon_tf.{binary}\n", "| flag | default | what it is |", "|---|---|---|"]
    for field in dataclasses.fields(config_class):
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
