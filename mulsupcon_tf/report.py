"""One self-contained HTML page about a pretraining, the classifier trained from it, and a BCE-only baseline.

  python -m mulsupcon_tf.report runs/pretrain runs/finetune runs/bce --output=report.html

Any of the three may be missing; the sections that need it are left out then.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from mulsupcon_tf.config.command_line import run_binary
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Settings of `python -m mulsupcon_tf.report`."""

    output: str = dataclasses.field(default="report.html", metadata={"help": "HTML file to write."})


def require_matplotlib() -> None:
    """Raises `InputError` where the package that draws the figures is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "A report needs matplotlib: pip install 'mulsupcon_tf[report]'. Received: none installed"
        ) from error


def write_report(workdirs: Sequence[str | pathlib.Path], output: str | pathlib.Path) -> pathlib.Path:
    """Writes the report of one to three finished run directories.

    Args:
        workdirs: of a pretraining, a fine-tuning from it and a BCE-only run, in any order.
        output: the HTML file; folders above it are made.

    Returns:
        The path of the file.

    Raises:
        InputError: the directories are no finished runs or do not belong together, the output is a folder, or
            matplotlib is missing.
    """
    require_matplotlib()
    from mulsupcon_tf.reporting.document import build_document
    from mulsupcon_tf.reporting.inputs import load_inputs

    path = pathlib.Path(output)
    if path.is_dir():
        raise InputError(f"--output must be a file. Received: the folder {path}")
    document = build_document(load_inputs(workdirs))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write_text(path, document)
    return path


def main(config: ReportConfig, workdirs: list[str]) -> None:
    """Writes the report and prints where it lies."""
    print(f"report: {write_report(workdirs, config.output)}")


if __name__ == "__main__":
    run_binary(ReportConfig, main, usage=__doc__, takes_files=True)
