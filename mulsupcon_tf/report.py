"""One self-contained HTML page about a pretraining, the classifier trained from it, and a BCE-only baseline.

  python -m mulsupcon_tf.report runs/pretrain runs/finetune runs/bce --output=report.html

Any of the three may be missing; the sections that need it are left out then.
"""

import dataclasses

from mulsupcon_tf.config.command_line import run_binary
from mulsupcon_tf.config.fields import Validated, flag, require
from mulsupcon_tf.config.paths import normal_path
from mulsupcon_tf.utils.optional_packages import require_matplotlib


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig(Validated):
    """Settings of `python -m mulsupcon_tf.report`."""

    output: str = flag("report.html", "HTML file to write.", path=True)
    data_dir: str | None = flag(None, "Folder of the dataset's files, if it has moved since the runs.", path=True)
    allow_changed_data: bool = flag(False, "Go on although the data have changed since the runs; the page notes it.")


def main(config: ReportConfig, workdirs: list[str]) -> None:
    """Writes the report and prints where it lies."""
    require(config, "output")
    workdirs = [normal_path(workdir, "A run directory") for workdir in workdirs]
    require_matplotlib()
    from mulsupcon_tf.reporting.document import write_report

    path = write_report(workdirs, config.output, data_dir=config.data_dir, allow_changed_data=config.allow_changed_data)
    print(f"report: {path}")


def run() -> None:
    """Entry point of the console script."""
    run_binary(ReportConfig, main, usage=__doc__, takes_files=True)


if __name__ == "__main__":
    run()
