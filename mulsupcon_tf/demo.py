"""The whole method in five minutes on two cores: pretrain, fine-tune, compare with BCE only, write a report.

  python -m mulsupcon_tf.demo --workdir=runs/demo

The data are the embedded `digits` scenes. The same command again continues an interrupted demo.
"""

import dataclasses
import pathlib
from typing import Any

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.optional_packages import require_matplotlib

# Measured on 2 cores: an epoch of pretraining takes 10 s, one of a classifier 7 s, everything else together a minute.
# With the baseline's own epochs that is 17 s for each epoch of pretraining and 14 s for each of fine-tuning.
PRETRAIN_EPOCHS = 7
FINETUNE_EPOCHS = 5


def _setting(default: Any, description: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": description})


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Settings of `python -m mulsupcon_tf.demo`."""

    workdir: str = _setting("runs/demo", "Folder of the demo: three run directories and report.html.")
    seed: int = _setting(0, "Seed of weights, data order and augmentation.")
    max_steps: int | None = _setting(None, "Stop each phase after so many steps, for trying the demo out.")


def run_demo(config: DemoConfig) -> pathlib.Path:
    """Runs the phases that are not finished yet, prints the results, and writes the report.

    Returns:
        Path of the report.

    Raises:
        InputError: a setting is wrong, matplotlib is missing, or the folder belongs to a demo with other settings or to
            something else.
    """
    folder = pathlib.Path(config.workdir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--workdir must be a folder. Received: the file {folder}")
    require_matplotlib()
    from mulsupcon_tf.reporting.document import write_report
    from mulsupcon_tf.reporting.sentences import comparison_sentence, recovery_sentences

    common: dict[str, Any] = {"dataset": "digits", "seed": config.seed, "max_steps": config.max_steps}
    pretraining = PretrainConfig(workdir=str(folder / "pretrain"), method="cld", epochs=PRETRAIN_EPOCHS, **common)
    finetuning = FinetuneConfig(
        workdir=str(folder / "finetune"), pretrained=pretraining.workdir, epochs=FINETUNE_EPOCHS, **common
    )
    baseline = FinetuneConfig(workdir=str(folder / "bce"), epochs=PRETRAIN_EPOCHS + FINETUNE_EPOCHS, **common)
    phases = (pretraining, finetuning, baseline)
    report = folder / "report.html"
    finished = report.exists() and all(RunDirectory(phase.workdir).finished for phase in phases)

    import_tensorflow_quietly()
    from mulsupcon_tf.commands.finetuning import finetune
    from mulsupcon_tf.commands.pretraining import pretrain

    _say(f"1/4  Pretraining: CLD learns embeddings and label distributions, {PRETRAIN_EPOCHS} epochs")
    recovery = pretrain(pretraining)["recovery"]
    _say(f"2/4  Fine-tuning: a classifier on the pretrained backbone, {FINETUNE_EPOCHS} epochs")
    finetuned = finetune(finetuning)
    _say(f"3/4  BCE only: the same classifier without pretraining, the same budget of {baseline.epochs} epochs")
    bce = finetune(baseline)
    _say("4/4  Report")
    if not finished:
        write_report([phase.workdir for phase in phases], report)
    _say("\n" + results_table(finetuned["test"], bce["test"]))
    budgets = (PRETRAIN_EPOCHS + FINETUNE_EPOCHS, baseline.epochs) if config.max_steps is None else None
    _say("\n" + comparison_sentence("CLD + fine-tuning", finetuned["test"], bce["test"], budgets))
    _say(recovery_sentences(recovery)[0])
    if finished:
        _say(f"\nThis demo was finished before; delete {folder} to run it again.")
    _say(f"\nreport: {report}")
    return report


def results_table(finetuned: dict[str, float], bce: dict[str, float]) -> str:
    """The six metrics of both classifiers on test, in percent, one a line."""
    from mulsupcon_tf.reporting.sentences import METRIC_TITLES, difference_of_rounded, percent, points

    lines = [f"{'test (%)':<18}{'CLD + fine-tuning':>18}{'BCE only':>10}{'difference':>12}"]
    for name, title in METRIC_TITLES.items():
        difference = points(difference_of_rounded(finetuned[name], bce[name]))
        lines.append(f"{title:<18}{percent(finetuned[name]):>18}{percent(bce[name]):>10}{difference:>12}")
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, flush=True)


def main(config: DemoConfig) -> None:
    """Runs the demo."""
    run_demo(config)


def run() -> None:
    """Entry point of the console script."""
    run_binary(DemoConfig, main, usage=__doc__)


if __name__ == "__main__":
    run()
