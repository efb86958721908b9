"""What an experiment consists of: trials, the settings of its grid, and the runs of each trial with their folders."""

import dataclasses
import itertools
import pathlib
import shlex
from collections.abc import Iterator, Mapping, Sequence

from mulsupcon_tf.config.command_line import config_of, flag_values
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.datasets.registry import dataset_kind
from mulsupcon_tf.experiments.grid_settings import CONFIGS, SET_BY_THE_PLAN, canonical, concerns, plain, training_of
from mulsupcon_tf.experiments.retrieval import RAW, REPRESENTATIONS, retrieval_file
from mulsupcon_tf.utils.choices import METHODS as CONTRASTIVE_METHODS
from mulsupcon_tf.utils.choices import READ_BY, UNSUPERVISED_METHODS
from mulsupcon_tf.utils.errors import InputError

Baseline = Mapping[str, str]

METHODS = ("bce", *CONTRASTIVE_METHODS)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a binary.

    Attributes:
        phase: "pretrain", "finetune", "probe", a fine-tuning of the linear layer alone, or "retrieval", which judges the
            run of its directory as a search engine.
        directory: its run directory.
        arguments: its command line after the name of the binary, without `--workdir`.
        representation: what "retrieval" searches by; "" for the others.
    """

    phase: str
    directory: pathlib.Path
    arguments: tuple[str, ...]
    representation: str = ""

    @property
    def binary(self) -> str:
        """Which binary it is a run of."""
        return "evaluate" if self.phase == "retrieval" else training_of(self.phase)

    @property
    def config(self) -> type:
        """The kind of settings that the binary takes."""
        return CONFIGS[self.binary]

    @property
    def title(self) -> str:
        """How a message calls it."""
        return f"{self.directory.name}, search by {self.representation}" if self.representation else self.directory.name

    def settings(self) -> PretrainConfig | FinetuneConfig:
        """What the command line of a training says; what it leaves to the dataset is None."""
        return config_of(self.config, flag_values(self.config, self.arguments))


@dataclasses.dataclass(frozen=True)
class Trial:
    """One method on one dataset with one seed, under one choice of the grid's settings.

    Attributes:
        dataset: name of the dataset.
        method: "bce", which is fine-tuning from random weights, or a method of pretraining.
        seed: of every run.
        settings: those of the grid that the method reads, text by name, in the order of the grid.
        chosen: those of `--choose` that the method reads, with the values that were best on validation.
    """

    dataset: str
    method: str
    seed: int
    settings: tuple[tuple[str, str], ...] = ()
    chosen: tuple[tuple[str, str], ...] = ()

    def directory(self, root: pathlib.Path, phase: str) -> pathlib.Path:
        """`DATASET.METHOD.SEED[.NAME=VALUE,...].PHASE` below `root`; a pretraining has no settings of fine-tuning."""
        read = [
            f"{name}={value}"
            for name, value in sorted(self.settings + self.chosen)
            if phase != "pretrain" or concerns(name, phase)
        ]
        return root / ".".join([self.dataset, self.method, str(self.seed), *([",".join(read)] if read else []), phase])


@dataclasses.dataclass(frozen=True)
class Plan:
    """All trials of an experiment.

    Attributes:
        root: folder of all runs.
        data_dir: `--data_dir` of all runs.
        trials: in the order in which they are run.
        flags: further flags of every "pretrain" and "finetune" run, a "probe" being one too, and of the fine-tunings of "bce".
        linear_probe: whether each frozen encoder also gets a linear layer.
        finetune: whether pretrainings are fine-tuned; "bce", which has none, is trained anyhow.
        retrieval: whether each pretraining and fine-tuning is also judged as a search engine, and the vectors themselves.
    """

    root: pathlib.Path
    data_dir: str | None
    trials: tuple[Trial, ...]
    flags: Mapping[str, Sequence[str]]
    linear_probe: bool
    finetune: bool = True
    retrieval: bool = False

    def runs(self, trial: Trial) -> Iterator[Run]:
        """The runs of a trial, each after those that it needs."""
        data = [f"--data_dir={self.data_dir}"] if self.data_dir else []
        common = [f"--dataset={trial.dataset}", f"--seed={trial.seed}"]
        pretrained = "" if trial.method == "bce" else trial.directory(self.root, "pretrain")
        tuning = [*common, f"--pretrained={pretrained}"]
        phases = {}
        if trial.method != "bce":
            phases["pretrain"] = [*common, f"--method={trial.method}"]
        if self.finetune or trial.method == "bce":
            phases["finetune"] = [*tuning, "--nolinear_probe"]
        if self.linear_probe and trial.method != "bce":
            phases["probe"] = [*tuning, "--linear_probe"]
        for phase, own in phases.items():
            grid = [
                f"--{plain(name)}={value}" for name, value in trial.settings + trial.chosen if concerns(name, phase)
            ]
            directory = trial.directory(self.root, phase)
            further = [*self.flags.get(training_of(phase), ())]
            if trial.method == "bce":
                further += self.flags.get("bce", ())
            unread = _defaults_of_unread(trial.method, further) if phase == "pretrain" else []
            # What the plan sets comes last: a flag file may name a dataset, a method or a seed of its own.
            training = Run(phase, directory, (*data, *further, *unread, *own, *grid))
            yield training
            if self.retrieval:
                yield from self._searches(trial, training)

    def _searches(self, trial: Trial, training: Run) -> Iterator[Run]:
        """What judges a run as a search engine; beside `bce` also the vectors that all methods start from."""
        names = [*REPRESENTATIONS.get(training.phase, ())]
        if trial.method == "bce" and dataset_kind(trial.dataset) == "vector":
            names.append(RAW)
        settings, directory = training.settings(), training.directory
        data = ["--allow_changed_data"] if settings.allow_changed_data else []
        if settings.data_dir:
            data.append(f"--data_dir={settings.data_dir}")
        for name in names:
            output = f"--output={retrieval_file(directory, name)}"
            yield Run("retrieval", directory, ("--retrieval", f"--representation={name}", output, *data), name)

    def require_settings(self) -> None:
        """Raises `InputError` where the command line of a training is wrong, which would be found after those before it."""
        for chain in self.chains():
            learnt = False
            for run in chain:
                if run.phase == "retrieval":  # made of a training's settings
                    continue
                try:
                    settings = run.settings()
                except InputError as error:
                    raise InputError(f"{error} (of {run.title})") from None
                if isinstance(settings, PretrainConfig):
                    learnt = settings.validation_fraction == 0 and settings.method not in UNSUPERVISED_METHODS
                elif learnt and settings.validation_fraction is None:
                    raise InputError(
                        "--finetune_flags must have --validation_fraction=0 where --pretrain_flags have it: a pretraining on the "
                        f"labels of validation leaves nothing held out. Received: --validation_fraction=0 of the one alone (of {run.title})"
                    )

    def chains(self) -> list[list[Run]]:
        """Runs that must follow each other, every run once; different chains can run at the same time.

        Trials that differ in fine-tuning alone share their pretraining.
        """
        chains: dict[pathlib.Path, dict[Run, None]] = {}
        for trial in self.trials:
            runs = list(self.runs(trial))
            chains.setdefault(runs[0].directory, {}).update(dict.fromkeys(runs))
        return [list(chain) for chain in chains.values()]


def make_trials(datasets: str, methods: str, seeds: str, grid: str) -> tuple[Trial, ...]:
    """Every combination, seeds outermost, so that an unfinished experiment has whole seeds.

    Args:
        datasets: names, separated by commas.
        methods: names, separated by commas.
        seeds: whole numbers, separated by commas.
        grid: see `parse_grid`.

    Raises:
        InputError: a method is unknown, a seed is no number, or the grid is wrong.
    """
    names = methods.split(",")
    for name in names:
        if name not in METHODS:
            raise InputError(f"--methods must be among {', '.join(METHODS)}. Received: {name}")
    wrong = next((seed for seed in seeds.split(",") if not seed.isdecimal()), None)
    if wrong is not None:
        raise InputError(f"--seeds must be whole numbers, separated by commas. Received: {wrong!r}")
    return tuple(
        dict.fromkeys(
            Trial(dataset, method, int(seed), settings_read_by(method, settings))
            for seed in seeds.split(",")
            for dataset in datasets.split(",")
            for settings in parse_grid(grid)
            for method in names
        )
    )


def parse_grid(text: str, flag: str = "--grid") -> list[dict[str, str]]:
    """Every combination of the values of a grid.

    Args:
        text: `NAME=VALUE,VALUE,...`, several of them separated by spaces. A flag that both phases have goes to both;
            `pretrain.NAME` and `finetune.NAME` mean one. An empty text has one combination, of nothing.
        flag: what a message calls it.

    Returns:
        A dict of text by name for each combination; numbers in their shortest form, 0.5 for 0.50.

    Raises:
        InputError: no such flag, one that the experiment sets itself, or a value that the flag does not take.
    """
    axes: dict[str, list[str]] = {}
    for axis in text.split():
        name, equals, values = axis.partition("=")
        if not equals or not values or name in axes:
            raise InputError(f"{flag} must be NAME=VALUE,... separated by spaces, each name once. Received: {axis!r}")
        axes[name] = list(dict.fromkeys(canonical(name, value) for value in values.split(",")))
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def settings_read_by(method: str, settings: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Those of the grid's settings that can make a difference to a method, which runs once for all values of the others."""
    return tuple(
        (name, value)
        for name, value in settings.items()
        if method in READ_BY.get(plain(name), METHODS) and (method != "bce" or concerns(name, "finetune"))
    )


def parse_baseline(text: str) -> Baseline:
    """What a baseline has instead: "method=mulsupcon", "alpha=0", or several separated by spaces.

    Raises:
        InputError: the text has another form, or names no flag or no value of it.
    """
    parts = [part.partition("=") for part in text.split()]
    wrong = next(("".join(part) for part in parts if not (part[0] and part[2])), None)
    if wrong is not None:
        raise InputError(f"--baseline must be NAME=VALUE, such as method=mulsupcon or alpha=0. Received: {wrong!r}")
    return {name: value if name == "method" else canonical(name, value) for name, _, value in parts}


def require_baseline(baseline: Baseline, trials: Sequence[Trial]) -> None:
    """Refuses a baseline that would have no line in the tables.

    Raises:
        InputError: no trial has that method, or that value of a setting of the grid.
    """
    for name, value in baseline.items():
        run = dict.fromkeys(dict([("method", trial.method), *trial.settings]).get(name) for trial in trials)
        if value not in run:
            values = ", ".join(filter(None, run)) or "no value of it"
            raise InputError(
                "--baseline must be among the --methods and the values of --grid. "
                f"Received: {name}={value}, where the experiment has {values}"
            )


def split_flags(text: str) -> list[str]:
    """The flags in the value of a flag such as `--pretrain_flags`.

    Raises:
        InputError: one of them is what an experiment sets itself.
    """
    flags = shlex.split(text)
    names = ((flag, flag.lstrip("-").partition("=")[0]) for flag in flags if flag.startswith("-"))
    own = next((flag for flag, name in names if {name, name.removeprefix("no")} & set(SET_BY_THE_PLAN)), None)
    if own is not None:
        raise InputError(
            f"further flags must leave {', '.join(SET_BY_THE_PLAN)} to the experiment, which sets them. Received: {own}"
        )
    return flags


def _defaults_of_unread(method: str, flags: Sequence[str]) -> list[str]:
    """One `--pretrain_flags` serves all methods: what a method does not read, and would refuse, is its default again."""
    values = flag_values(PretrainConfig, flags)  # those in flag files too
    return [
        f"--{name}={getattr(PretrainConfig, name)}"
        for name, methods in READ_BY.items()
        if values[name].present and method not in methods
    ]
