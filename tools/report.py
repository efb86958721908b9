"""One self-contained HTML page about a pretraining, the classifier trained from it, and a BCE-only baseline.

  python tools/report.py runs/pretrain runs/finetune runs/bce --output=report.html

Any of the three may be missing; the sections that need it are left out then.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from mulsupcon_tf import atomic_file
from mulsupcon_tf.command_line import run_binary
from mulsupcon_tf.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Settings of `python tools/report.py`."""

    output: str = dataclasses.field(default="report.html", metadata={"help": "HTML file to write."})
    allow_changed_data: bool = dataclasses.field(
        default=False, metadata={"help": "Go on where the data are not those that the runs saw; the page says so."}
    )


def require_matplotlib() -> None:
    """Raises `InputError` where the package that draws the figures is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "A report needs matplotlib: pip install 'mulsupcon_tf[report]'. Received: none installed"
        ) from error


def write_report(
    workdirs: Sequence[str | pathlib.Path], output: str | pathlib.Path, *, allow_changed_data: bool = False
) -> pathlib.Path:
    """Writes the report of one to three finished run directories.

    Args:
        workdirs: of a pretraining, a fine-tuning from it and a BCE-only run, in any order.
        output: the HTML file; folders above it are made.
        allow_changed_data: whether the data may be others than those that the runs saw.

    Returns:
        The path of the file.

    Raises:
        InputError: the directories are no finished runs or do not belong together, the data have changed, the output is a
            folder, or matplotlib is missing.
    """
    require_matplotlib()
    from report_document import build_document
    from report_inputs import load_inputs

    path = pathlib.Path(output)
    if path.is_dir():
        raise InputError(f"--output must be a file. Received: the folder {path}")
    document = build_document(load_inputs(workdirs, allow_changed_data=allow_changed_data))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write_text(path, document)
    return path


def main(config: ReportConfig, workdirs: list[str]) -> None:
    """Writes the report and prints where it lies."""
    print(f"report: {write_report(workdirs, config.output, allow_changed_data=config.allow_changed_data)}")


if __name__ == "__main__":
    run_binary(ReportConfig, main, usage=__doc__, takes_files=True)
