"""Recovered label distributions against true ones, beside controls and the label enhancement of other authors.

  python -m tools.results.recovery --flagfile=flags/experiments/recovery.flags --ldl_dir=DIR --workdir=runs/recovery
  python -m tools.results.recovery --ldl_dir=DIR --datasets=SJAFFE --enhancement= --workdir=runs/try

`digits` knows the visible area of each digit, `coco` the area share of each category, every .mat file in --ldl_dir the
distribution itself. Each method is pretrained, and a classifier trained, on the logical labels alone; finished runs are not
repeated. The folder gets results.csv, results.json and results.md.
"""

import dataclasses
import functools
import itertools
import os
import pathlib

from mulsupcon_tf.config.command_line import run_binary
from mulsupcon_tf.config.fields import Validated, flag, require
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.choices import DISTRIBUTION_METHODS, OWN_DISTRIBUTIONS
from mulsupcon_tf.utils.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecoveryConfig(Validated):
    """Settings of `tools/results/recovery.py`."""

    workdir: str = flag(None, "Folder of all runs and tables. Required.", path=True)
    datasets: str | None = flag(
        None, "digits, coco, or names of .mat files, separated by commas. Default: all that are there."
    )
    ldl_dir: str | None = flag(None, "Folder of .mat files of label distribution learning.", path=True)
    digits_flags: str = flag("", "Flags of the pretrainings on digits, such as --mixed_precision=bfloat16.")
    coco_dir: str | None = flag(None, "Folder in COCO layout.", path=True)
    coco_flags: str = flag(
        "--backbone=resnet8 --image_size=64 --batch_size=32 --epochs=100 --monitor_every=0 --cache",
        "Flags of the pretrainings on coco; the default suits a few hundred photos on CPU cores.",
    )
    methods: str = flag("cld,rld", "Methods that learn distributions, separated by commas.")
    own_distributions: str = flag(
        ",".join(OWN_DISTRIBUTIONS), "Values of --own_distribution that each method is run with, separated by commas."
    )
    seeds: str = flag("0,1,2", "Seeds, separated by commas.")
    enhancement: str = flag(
        "FCM,KM,LP,ML,GLLE,LEVI,LIBLE,ConLE", "Algorithms of python-ldl, separated by commas; empty: none."
    )
    parallel: int = flag(os.cpu_count() or 1, "Pretrainings at the same time.", minimum=1)


def main(settings: RecoveryConfig) -> None:
    """Pretrains what is not finished, compares, then writes and prints the tables."""
    require(settings, "workdir")
    from tools.results.label_enhancement import enhance_all, parse_algorithms

    algorithms = parse_algorithms(settings.enhancement)
    sources = _sources(settings)
    root = pathlib.Path(settings.workdir)
    variants = list(itertools.product(settings.methods.split(","), settings.own_distributions.split(",")))
    runs = {
        (source.name, variant, int(seed)): _run(source, variant, seed, root)
        for seed in settings.seeds.split(",")
        for source in sources
        for variant in variants
    }
    root.mkdir(parents=True, exist_ok=True)

    # SciPy takes a while; a mistyped setting is reported before.
    from mulsupcon_tf.experiments.collecting import environment
    from mulsupcon_tf.experiments.runner import run_all
    from mulsupcon_tf.experiments.table import Results
    from tools.results.recovery_markdown import document

    classifiers = {
        (source.name, int(seed)): _classifier(source, seed, root)
        for seed in settings.seeds.split(",")
        for source in sources
    }
    failures = run_all([[run] for run in (*runs.values(), *classifiers.values())], settings.parallel)
    if failures:
        raise InputError(f"Every run must succeed. Received: {len(failures)} that did not; {failures[0]}")
    tasks = list(_enhancements(sources, runs, algorithms))
    found = enhance_all(tasks, root / "enhancement", settings.parallel) if tasks else []
    enhanced = {task.title: rows for task, rows in zip(tasks, found, strict=True)}
    rows = [row for source in sources for row in _compare(source, runs, classifiers, algorithms, enhanced)]
    of_images = [f"{source.name}_flags" for source in sources if source.dataset != "ldl"]
    names = ("methods", "own_distributions", "seeds", "enhancement", *of_images)
    asked = {name: str(getattr(settings, name)) for name in names}
    trained = environment(run.directory for run in (*runs.values(), *classifiers.values()))
    results = Results(trained, asked, [], rows)
    text = document(results)
    for name, content in (("csv", results.as_csv()), ("json", results.as_json()), ("md", text)):
        atomic_file.write_text(root / f"results.{name}", content)
    print(text)


def _sources(settings: RecoveryConfig):
    from mulsupcon_tf.experiments.plan import split_flags
    from tools.results.recovery_candidates import Source

    known = {"digits": Source("digits", "digits", flags=tuple(split_flags(settings.digits_flags)))}
    if settings.coco_dir:
        known["coco"] = Source("coco", "coco", settings.coco_dir, tuple(split_flags(settings.coco_flags)))
    if settings.ldl_dir:
        files = sorted(pathlib.Path(settings.ldl_dir).glob("*.mat"))
        if not files:
            raise InputError(f"--ldl_dir must hold .mat files. Received: none in {settings.ldl_dir}")
        known |= {path.stem: Source(path.stem, "ldl", str(path)) for path in files}
    names = settings.datasets.split(",") if settings.datasets else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"--datasets must be among {', '.join(known)}. Received: {unknown[0]}")
    return [known[name] for name in names]


def _run(source, variant: tuple[str, str], seed: str, root: pathlib.Path):
    from mulsupcon_tf.experiments.plan import Run

    method, own = variant
    if method not in DISTRIBUTION_METHODS:
        raise InputError(f"--methods must be among {', '.join(DISTRIBUTION_METHODS)}. Received: {method}")
    PretrainConfig(seed=int(seed), own_distribution=own)
    arguments = [f"--method={method}", f"--own_distribution={own}", *_arguments(source, seed)]
    return Run("pretrain", root / f"{source.name}.{method}.{own}.{seed}.pretrain", tuple(arguments))


def _classifier(source, seed: str, root: pathlib.Path):
    """Binary cross-entropy from random weights, whose probabilities a recovered distribution has to beat."""
    from mulsupcon_tf.config.command_line import flag_values
    from mulsupcon_tf.experiments.plan import Run

    values = flag_values(FinetuneConfig, _arguments(source, seed), known_only=True)
    arguments = tuple(values[name].serialize() for name in values if values[name].present)
    return Run("finetune", root / f"{source.name}.bce.{seed}.finetune", arguments)


def _arguments(source, seed: str) -> list[str]:
    data = [f"--data_dir={source.data_dir}"] if source.data_dir else []
    return [f"--dataset={source.dataset}", f"--seed={seed}", *source.flags, *data]


def _enhancements(sources, runs, algorithms: list[str]):
    """Label enhancement of each dataset with each seed; images are seen through the first method's representation."""
    from tools.results.label_enhancement import Enhancement
    from tools.results.recovery_candidates import enhancement_input

    for source in sources if algorithms else ():
        dataset = _load(source)
        for seed, directory in _first_runs(source, runs).items():
            features, labels = enhancement_input(dataset, directory)
            for algorithm in algorithms:
                yield Enhancement(f"{source.name}.{algorithm}.{seed}", algorithm, features, labels, seed)


def _first_runs(source, runs) -> dict[int, pathlib.Path]:
    """The directory of the first method's run by seed."""
    directories = {}
    for (name, _, seed), run in runs.items():
        if name == source.name:
            directories.setdefault(seed, run.directory)
    return directories


def _compare(source, runs, classifiers, algorithms: list[str], enhanced):
    """Rows of all candidates of one dataset, a control once a seed."""
    from mulsupcon_tf.evaluation.distribution_distances import compare_distributions
    from tools.results.recovery_candidates import controls, predicted_by_run, recovered_by_run

    dataset = _load(source)
    test = dataset.splits["test"]
    candidates = {
        (f"{method}, {own}: d", seed): recovered_by_run(run.directory)
        for (name, (method, own), seed), run in runs.items()
        if name == source.name
    }
    for seed, directory in _first_runs(source, runs).items():
        candidates |= {(control, seed): rows for control, rows in controls(dataset, directory)}
        candidates["classifier", seed] = predicted_by_run(classifiers[source.name, seed].directory)
        for algorithm in algorithms:
            candidates[algorithm, seed] = enhanced[f"{source.name}.{algorithm}.{seed}"][-len(test) :]
    for (candidate, seed), recovered in candidates.items():
        for measure, value in compare_distributions(test.distributions, recovered, test.labels).items():
            yield {
                "dataset": source.name,
                "method": candidate,
                "seed": seed,
                "phase": "recovery",
                "protocol": "",
                "metric": measure,
                "value": round(value, 6),
            }


@functools.cache
def _load(source):
    from mulsupcon_tf.datasets.registry import load_dataset

    return load_dataset(source.dataset, data_dir=source.data_dir)


if __name__ == "__main__":
    run_binary(RecoveryConfig, main, usage=__doc__)
