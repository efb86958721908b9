"""The whole method in five minutes on two cores: pretrain, fine-tune, compare with BCE only, search, write a report.

  python -m mulsupcon_tf.demo --workdir=runs/demo

The data are the embedded `digits` scenes. The same command again continues an interrupted demo.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.common_flags import LARGEST_SEED
from mulsupcon_tf.config.fields import Validated, flag, require
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.optional_packages import require_matplotlib

# Measured on 2 cores: an epoch of pretraining takes at most 9 s, one of a classifier 6 s, everything else together a
# minute and a half. With the baseline's own epochs that is 15 s for each epoch of pretraining and 12 s for each of fine-tuning.
PRETRAIN_EPOCHS = 8
FINETUNE_EPOCHS = 4
# The learning rate falls once, as the baseline's does: it stays at its peak until fine-tuning.
PRETRAINING: dict[str, Any] = {"final_learning_rate_scale": 1.0}
FINETUNING: dict[str, Any] = {"warmup_epochs": 0.0}

Found = dict[str, Mapping[str, float]]  # measures of a search by what is searched by


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoConfig(Validated):
    """Settings of `python -m mulsupcon_tf.demo`."""

    workdir: str = flag("runs/demo", "Folder of the demo: three run directories and report.html.", path=True)
    seed: int = flag(0, "Seed of weights, data order and augmentation.", minimum=0, maximum=LARGEST_SEED)
    max_steps: int | None = flag(None, "Stop each phase after this many steps, to try the demo out.", minimum=1)


def run_demo(config: DemoConfig) -> pathlib.Path:
    """Runs the phases that are not finished yet, prints the results, and writes the report.

    Returns:
        Path of the report.

    Raises:
        InputError: a setting is wrong, matplotlib is missing, or the folder belongs to a demo with other settings or to
            something else.
    """
    require(config, "workdir")
    folder = pathlib.Path(config.workdir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--workdir must be a folder. Received: the file {folder}")
    require_matplotlib()
    from mulsupcon_tf.reporting.document import write_report
    from mulsupcon_tf.reporting.sentences import comparison_sentence, recovery_sentences, search_sentence

    common: dict[str, Any] = {"dataset": "digits", "seed": config.seed, "max_steps": config.max_steps}
    pretraining = PretrainConfig(
        workdir=str(folder / "pretrain"), method="cld", epochs=PRETRAIN_EPOCHS, **PRETRAINING, **common
    )
    finetuning = FinetuneConfig(
        workdir=str(folder / "finetune"),
        pretrained=pretraining.workdir,
        epochs=FINETUNE_EPOCHS,
        **FINETUNING,
        **common,
    )
    baseline = FinetuneConfig(workdir=str(folder / "bce"), epochs=PRETRAIN_EPOCHS + FINETUNE_EPOCHS, **common)
    phases = (pretraining, finetuning, baseline)
    report = folder / "report.html"
    finished = report.exists() and all(RunDirectory(phase.workdir).finished for phase in phases)

    import_tensorflow_quietly()
    from mulsupcon_tf.commands.finetuning import finetune
    from mulsupcon_tf.commands.pretraining import pretrain

    _say(f"1/5  Pretraining: CLD learns embeddings, a classifier and label distributions, {PRETRAIN_EPOCHS} epochs")
    recovery = pretrain(pretraining)["recovery"]
    _say(f"2/5  Fine-tuning: the classifier goes on alone, {FINETUNE_EPOCHS} epochs")
    finetuned = finetune(finetuning)
    _say(f"3/5  BCE only: the same classifier without pretraining, the same budget of {baseline.epochs} epochs")
    bce = finetune(baseline)
    _say("4/5  Search: each test scene looks for the ten nearest in train")
    before, after, of_bce = (_search(phase.workdir) for phase in phases)
    _say("5/5  Report")
    if not finished:
        write_report([phase.workdir for phase in phases], report)
    _say("\n" + results_table(finetuned["test"], bce["test"]))
    found = {"BCE only": of_bce, "CLD pretraining": before, "CLD + fine-tuning": after}
    _say("\n" + search_table(found | {"the same for every scene": _one_list()}))
    budgets = (PRETRAIN_EPOCHS + FINETUNE_EPOCHS, baseline.epochs) if config.max_steps is None else None
    _say("\n" + comparison_sentence("CLD + fine-tuning", finetuned["test"], bce["test"], budgets))
    _say(search_sentence("CLD + fine-tuning", after, of_bce))
    nearest, _, order = recovery_sentences(recovery)
    _say(f"{nearest} {order}")
    _say("One seed and a short training; docs/results.md says what longer ones with several seeds show.")
    if finished:
        _say(f"\nThis demo was finished before; delete {folder} to run it again.")
    _say(f"\nreport: {report}")
    return report


def _search(workdir: str) -> Found:
    """The measures of a finished run as a search engine, by representation; what was judged before is read."""
    from mulsupcon_tf.commands.evaluating import judge_search, write_judgement
    from mulsupcon_tf.commands.finished_run import open_run
    from mulsupcon_tf.experiments.retrieval import REPRESENTATIONS, read_retrieval, retrieval_file

    directory = RunDirectory(workdir)
    names = REPRESENTATIONS[directory.read_summary()["phase"]]
    missing = [name for name in names if read_retrieval(directory, name) is None]
    if missing:
        run = open_run(workdir, None)
        run = dataclasses.replace(run, outputs=functools.cache(run.outputs))
        for name in missing:
            write_judgement(retrieval_file(directory.path, name), judge_search(run, name))
    found = {name: read_retrieval(directory, name) or {} for name in names}
    return {name: {measure: each["value"] for measure, each in measures.items()} for name, measures in found.items()}


def _one_list() -> Found:
    """The measures of a search that looks at no query."""
    from mulsupcon_tf.datasets.registry import load_dataset
    from mulsupcon_tf.evaluation.retrieval import judge_one_list

    splits = load_dataset("digits").splits
    judged = judge_one_list(splits["test"], splits["train"])
    return {"one list": {measure: each["value"] for measure, each in judged.items()}}


def results_table(finetuned: dict[str, float], bce: dict[str, float]) -> str:
    """The six metrics of both classifiers on test, in percent, one a line."""
    from mulsupcon_tf.reporting.sentences import METRIC_TITLES, difference_of_rounded, percent
    from mulsupcon_tf.utils.wording import points

    lines = [f"{'test (%)':<18}{'CLD + fine-tuning':>18}{'BCE only':>10}{'difference':>12}"]
    for name, title in METRIC_TITLES.items():
        difference = points(difference_of_rounded(finetuned[name], bce[name]))
        lines.append(f"{title:<18}{percent(finetuned[name]):>18}{percent(bce[name]):>10}{difference:>12}")
    return "\n".join(lines)


def search_table(found: Mapping[str, Found]) -> str:
    """How good each run is for search, in percent, one a line.

    Args:
        found: measures by run and by what is searched by.
    """
    from mulsupcon_tf.reporting.sentences import percent

    lines = [f"{'search (%)':<34}{'mAP@10':>8}{'same largest digit':>20}{'nDCG by areas':>15}"]
    for title, representations in found.items():
        for name, measures in representations.items():
            cells = [percent(measures[measure]) for measure in ("mAP", "dominant", "ndcg_distributions")]
            lines.append(f"{f'{title}, {name}':<34}{cells[0]:>8}{cells[1]:>20}{cells[2]:>15}")
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
