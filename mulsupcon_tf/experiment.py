"""Methods x datasets x seeds x a grid of settings, through the real binaries: tables, tests and figures.

  python -m mulsupcon_tf.experiment --flagfile=flags/experiments/held_out.flags --data_dir=DIR --workdir=runs/held_out
  python -m mulsupcon_tf.experiment --datasets=scene,yeast --bce_flags=--epochs=500 --data_dir=DIR --workdir=runs/vectors
  python -m mulsupcon_tf.experiment --datasets=scene --methods=mulsupcon,cld --grid="alpha=0.1,1" --baseline=alpha=1 --workdir=runs/alpha
  python -m mulsupcon_tf.experiment --datasets=digits --methods=bce,mulsupcon --retrieval --nofinetune --workdir=runs/search

Each method is pretrained, fine-tuned, and judged on test with thresholds from validation; `bce` is fine-tuning from
random weights. With --retrieval each run is also judged as a search engine: a pretraining by its embedding, a classifier by
its features and by its probabilities, and the raw vectors of the data. With --validation_fraction=0 in --pretrain_flags and
--finetune_flags it is the paper's protocol, and labelled so. A run that is finished is not repeated, so the same command
continues after an interruption.

A comparison at one learning rate says how well a method likes that rate. With --choose="learning_rate=1e-4,4e-4,1.6e-3" each
line of the table takes the value of its own best validation mAP: the first seed is run with all of them, the others with the best.

Datasets that were run elsewhere, or before, join in by their tables: --add=elsewhere/results.json.

The folder gets results.csv and results.json (one row a run, protocol and metric; the environment), results.md (tables,
and differences to the baseline paired by seed) and figures/*.png.
"""

import dataclasses
import logging
import os
import pathlib

from mulsupcon_tf.config.command_line import run_binary
from mulsupcon_tf.config.fields import Validated, flag, require
from mulsupcon_tf.config.paths import expanded
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError

# What tables that are shown together have in common, but for the datasets.
_ASKED = (
    "datasets",
    "methods",
    "seeds",
    "grid",
    "choose",
    "baseline",
    "pretrain_flags",
    "finetune_flags",
    "bce_flags",
    "finetune",
    "linear_probe",
    "retrieval",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig(Validated):
    """Settings of `mulsupcon_tf/experiment.py`."""

    workdir: str = flag(None, "Folder of all runs, tables and figures. Required.", path=True)
    data_dir: str | None = flag(None, "Folder of the datasets' files.", path=True)
    datasets: str = flag("scene,yeast", "Datasets, separated by commas.")
    methods: str = flag(
        "bce,cld,rld,mulsupcon,any,all,jaccard,self",
        "Methods, separated by commas; bce is cross-entropy without pretraining.",
    )
    seeds: str = flag("0,1,2", "Seeds, separated by commas.")
    grid: str = flag(
        "",
        "Settings to vary: NAME=VALUE,VALUE... separated by spaces, every combination. "
        "A flag of both phases goes to both; pretrain.NAME and finetune.NAME mean one.",
    )
    choose: str = flag(
        "",
        "Settings that each method chooses for itself by validation mAP with the first seed, written as those of --grid. "
        "Without them all methods have the same, which may suit one better than another.",
    )
    baseline: str = flag("method=bce", "What the others are compared with: method=NAME, or a setting such as alpha=1.")
    pretrain_flags: str = flag(
        "", "Further flags for every pretraining, --flagfile too; dataset, method and seed stay those above."
    )
    finetune_flags: str = flag("", "Further flags for every fine-tuning, that of a linear layer too.")
    bce_flags: str = flag(
        "",
        "Further flags for the fine-tunings of bce, such as the --epochs of both phases together, for an equal budget.",
    )
    finetune: bool = flag(True, "Fine-tune each pretraining; with --nofinetune only bce is trained as a classifier.")
    linear_probe: bool = flag(False, "Also train a linear layer on each frozen encoder.")
    retrieval: bool = flag(
        False,
        "Also judge pretrainings, classifiers and raw vectors as search engines: each test sample looks for its nearest in train.",
    )
    parallel: int = flag(os.cpu_count() or 1, "Runs at the same time, each on its own share of the cores.", minimum=1)
    collect_only: bool = flag(False, "Run nothing; write the tables and figures of the runs that are finished.")
    add: str = flag(
        "", "results.json files of other datasets, separated by commas, which are shown together with these."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.finetune or self.linear_probe or self.retrieval):
            raise InputError(
                "--nofinetune needs --retrieval or --linear_probe, which judge a pretraining. Received: neither"
            )
        if not self.finetune and not self.retrieval and "bce" in self.methods.split(","):
            raise InputError(
                "--nofinetune without --retrieval leaves bce nothing to be compared by; --methods must be without it. "
                f"Received: --methods={self.methods}"
            )
        if self.choose and not (self.finetune or self.linear_probe):
            raise InputError(
                "--choose goes by validation mAP of classifiers, of which --nofinetune without --linear_probe has none. "
                f"Received: --choose={self.choose!r}"
            )


def main(settings: ExperimentConfig) -> None:
    """Runs everything that is not finished, then writes tables and figures, and prints the tables."""
    require(settings, "workdir")
    from mulsupcon_tf.experiments.choosing import candidates, with_choices, with_every_choice
    from mulsupcon_tf.experiments.plan import Plan, make_trials, parse_baseline, require_baseline, split_flags

    baseline = parse_baseline(settings.baseline)
    root = pathlib.Path(settings.workdir)
    flags = {phase: split_flags(getattr(settings, f"{phase}_flags")) for phase in ("pretrain", "finetune", "bce")}
    trials = make_trials(settings.datasets, settings.methods, settings.seeds, settings.grid)
    if settings.baseline == ExperimentConfig.baseline and "bce" not in settings.methods.split(","):
        logging.getLogger("mulsupcon_tf").warning(
            "warning: --methods is without bce, which --baseline is unless you say otherwise: differences are left out"
        )
    else:
        require_baseline(baseline, trials)
    plan = Plan(
        root,
        settings.data_dir,
        trials,
        flags,
        settings.linear_probe,
        finetune=settings.finetune,
        retrieval=settings.retrieval,
    )
    needed = candidates(plan, settings.choose) if settings.choose else None
    (with_every_choice(plan, needed) if needed else plan).require_settings()

    # SciPy and Matplotlib take a while; a mistyped setting is reported before.
    from mulsupcon_tf.experiments.collecting import collect
    from mulsupcon_tf.experiments.figures import draw_all
    from mulsupcon_tf.experiments.markdown import document
    from mulsupcon_tf.experiments.runner import run_all
    from mulsupcon_tf.experiments.table import datasets_of, join, read_results, require_joinable

    others = [read_results(pathlib.Path(expanded(path, "--add"))) for path in filter(None, settings.add.split(","))]
    asked = {name: str(getattr(settings, name)) for name in _ASKED}
    if others:
        require_joinable(
            [(datasets_of(part), part.settings) for part in others] + [(settings.datasets.split(","), asked)]
        )
    root.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    if needed:
        if not settings.collect_only:
            _require_success(run_all(needed.chains(), settings.parallel))
        plan = with_choices(plan, needed)
    if not settings.collect_only:
        failures = run_all(plan.chains(), settings.parallel)
    try:
        results = join([*others, collect(plan, asked)])
    except InputError:  # no run has finished; the reason is in the first that failed
        _require_success(failures)
        raise
    text = document(results, baseline)
    for name, content in (("csv", results.as_csv()), ("json", results.as_json()), ("md", text)):
        atomic_file.write_text(root / f"results.{name}", content)
    (root / "figures").mkdir(exist_ok=True)
    for name, png in draw_all(results).items():
        with atomic_file.replacing(root / "figures" / f"{name}.png") as partial:
            partial.write_bytes(png)
    print(text)
    _require_success(failures)


def _require_success(failures: list[str]) -> None:
    if failures:
        raise InputError(f"Every run must succeed. Received: {len(failures)} that did not; {failures[0]}")


def run() -> None:
    """Entry point of the console script."""
    run_binary(ExperimentConfig, main, usage=__doc__)


if __name__ == "__main__":
    run()
