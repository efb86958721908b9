"""docs/results.md, README.md and the files of flags against the committed tables."""

import re

import numpy as np
import pytest
from absl import flags

from mulsupcon_tf.config.command_line import config_of, define_flags, flag_values
from mulsupcon_tf.config.defaults import resolve_finetuning, resolve_pretraining
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.experiment import ExperimentConfig
from mulsupcon_tf.experiments.lines import differences, headline, title_of
from mulsupcon_tf.experiments.plan import Plan, make_trials, parse_baseline, split_flags
from mulsupcon_tf.experiments.table import Results
from mulsupcon_tf.utils.wording import points
from tests.helpers.made_up_results import scores_of
from tools.results.page_sections import SECTIONS
from tools.results.recovery import RecoveryConfig
from tools.results.results_page import (
    EXPERIMENTS,
    PAGE,
    REPOSITORY,
    TABLES,
    committed,
    page,
    statement,
    summary_table,
)

README = REPOSITORY / "README.md"
FLAGFILES = sorted(EXPERIMENTS.glob("*.flags"))
COMMITTED = [name for name in SECTIONS if committed(name)]
PAPERS_SETTINGS = [path.stem for path in FLAGFILES if re.match(r"reproduction_|held_out_paper_", path.stem)]


def parse(path):
    config_class = RecoveryConfig if path.stem == "recovery" else ExperimentConfig
    values = flags.FlagValues()
    define_flags(config_class, flag_values=values)
    command = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# python -m ").split()
    assert command[0] == config_class.__module__
    rest = values(["program", f"--flagfile={path}", *command[2:]])
    assert rest == ["program"] and command[1] == f"--flagfile={path.relative_to(REPOSITORY)}"
    return {name: values[name].value for name in values if name in config_class.__dataclass_fields__}


def further_flags(settings):
    return {phase: split_flags(settings[f"{phase}_flags"]) for phase in ("pretrain", "finetune", "bce")}


def runs_of(settings):
    trials = make_trials(settings["datasets"], settings["methods"], settings["seeds"], settings["grid"])
    plan = Plan(EXPERIMENTS, None, trials, further_flags(settings), False, finetune=settings["finetune"])
    return [(trial, run) for trial in trials for run in plan.runs(trial)]


@pytest.mark.parametrize(
    ("row", "name", "dataset", "phase", "line"),
    [
        *[
            ("a classifier; some hundred samples", "neighbours_vectors", dataset, "finetune", "bce mix_neighbours=true")
            for dataset in ("scene", "yeast", "enron", "corel5k")
        ],
        ("a classifier; some hundred samples", "neighbours_photographs", "npz", "finetune", "bce mix_neighbours=true"),
        ("a classifier; some hundred samples", "neighbours_corel5k", "npz", "finetune", "bce mix_neighbours=true"),
        ("a classifier; contrastive pretraining", "held_out_corel5k", "corel5k", "finetune", "all"),
        ("a classifier; contrastive pretraining", "held_out_delicious", "delicious", "finetune", "all"),
        ("search among vectors", "controls", "yeast", "retrieval", "mulsupcon, probabilities bce_warmup_epochs=0"),
        ("search among vectors", "controls", "scene", "retrieval", "mulsupcon, probabilities bce_warmup_epochs=0"),
    ],
)
def test_a_gain_in_the_readme_is_that_of_its_table(row, name, dataset, phase, line):
    results = committed(name)
    # README holds everything against `bce`, the study of controls against these.
    baseline = parse_baseline("method=bce" if name == "controls" else results.settings["baseline"])
    compared = differences(results, dataset, phase, headline(results, dataset, phase), baseline)
    (gain,) = [difference.mean for compared_line, difference in compared.items() if title_of(compared_line) == line]
    (text,) = [text for text in README.read_text(encoding="utf-8").splitlines() if text.startswith(f"| {row}")]
    assert re.search(rf"(?<![\d.]){re.escape(points(gain))}(?!\d)", text)


@pytest.fixture(scope="module")
def made():
    """The page that the committed tables make."""
    return page()


def test_the_page_is_what_the_committed_tables_make_of_it(made):
    assert PAGE.read_text(encoding="utf-8") == made, "python -m tools.results.results_page writes it anew"


def test_every_figure_on_the_page_is_there_and_no_other(made):
    shown = set(re.findall(r"\((results/[^)]+\.png)\)", made))
    assert shown == {f"results/{path.name}" for path in (PAGE.parent / "results").glob("*.png")}


def test_a_section_says_its_protocol_and_without_a_table_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setattr("tools.results.results_page.TABLES", tmp_path)
    sections = dict(zip(SECTIONS, page().split("\n## ")[1:], strict=True))
    for name, text in sections.items():
        assert text.startswith(f"{SECTIONS[name]}\n")
        assert "\nNot run yet. Takes about " in text
        command = (EXPERIMENTS / f"{name}.flags").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert f"\n`{command}`" in text
        by_paper = name.startswith("reproduction_") or name in ("bce_epochs", "alpha_beta", "ablation", "kernels")
        assert ("\nProtocol: the paper's, which is optimistic.\n" in text) == by_paper, name
        assert ("\nProtocol: held-out.\n" in text) == (not by_paper and name != "recovery"), name


def test_the_summary_has_means_and_deviations_by_method_and_dataset():
    first = scores_of({"bce": (0.5, 0.6, 0.7), "cld": (0.5, 0.5, 0.6)})
    first += scores_of({"bce": (0.9, 0.9, 0.9)}, protocol="paper") + scores_of({"bce": (0.1,)}, metric="macro_f1")
    second = scores_of({"bce": (0.1, 0.3)}, dataset="e")
    table = summary_table([Results({}, {}, [], first), None, Results({}, {}, [], second)])
    assert table.splitlines() == [
        "| mAP (%) | d | e |",
        "|---|---|---|",
        f"| `bce` | 60.0 ± 10.0 | 20.0 ± {np.std([10, 30], ddof=1):.1f} |",
        f"| `cld` | 53.3 ± {np.std([50, 50, 60], ddof=1):.1f} |  |",
    ]


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_table_knows_its_environment_and_has_values_of_every_kind_it_shows(name):
    results = committed(name)
    assert {"processor", "cores", "system", "runs", "hours", "versions"} <= set(results.environment)
    assert {"python", "tensorflow", "keras", "numpy"} <= set(results.environment["versions"])
    keys = [tuple(row.get(column) for column in results.columns[:-1]) for row in results.rows]
    assert len(keys) == len(set(keys)) > 0
    assert all(isinstance(row["value"], float | int) for row in results.rows)


@pytest.mark.parametrize("dataset", ["scene", "yeast", "corel5k", "enron"])
def test_dominant_is_over_as_many_samples_as_have_one_label_in_the_data(dataset, shared_data):
    numbers = {
        results.queries[dataset]["dominant"] for results in map(committed, COMMITTED) if dataset in results.queries
    }
    labels = load_dataset(dataset, data_dir=str(shared_data / "mulan")).splits["test"].labels
    assert numbers == {int((labels.sum(1) == 1).sum())}


def test_every_section_has_a_file_of_flags_and_every_file_a_section():
    assert {path.stem for path in FLAGFILES} == set(SECTIONS)
    assert {path.stem for path in TABLES.glob("*")} <= set(SECTIONS)


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_a_file_of_flags_says_command_time_and_question_and_asks_for_runs(path):
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert re.fullmatch(r"# Takes about \d+ (minutes|hours?)( \d+ minutes)? on 2 CPU cores.*", header[1])
    assert header[2].startswith("# Answers: ")
    settings = parse(path)
    if path.stem != "recovery":
        ExperimentConfig(**settings)
        assert parse_baseline(settings["baseline"])
        assert all(run.settings() for _, run in runs_of(settings))


def epochs_of(run):
    config = config_of(run.config, flag_values(run.config, run.arguments))
    if isinstance(config, PretrainConfig):
        return resolve_pretraining(config, input_shape=shape_of(config), num_train=10**4).epochs
    return resolve_finetuning(config, input_shape=shape_of(config)).epochs


def shape_of(config):
    return (48, 48, 1) if config.dataset == "digits" else (103,)


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_bce_has_the_epochs_of_all_phases_of_the_others(path):
    if path.stem in ("recovery", "bce_epochs"):  # which varies them
        return
    totals = {}
    for trial, run in runs_of(parse(path)):
        totals[trial] = totals.get(trial, 0) + epochs_of(run)
    assert len({(trial.dataset, total) for trial, total in totals.items()}) == len({trial.dataset for trial in totals})


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_both_phases_follow_one_protocol(path):
    if path.stem == "recovery":
        return
    settings = parse(path)
    paper = ["--validation_fraction=0" in settings[f"{phase}_flags"] for phase in ("pretrain", "finetune")]
    assert len(set(paper)) == 1


def resolved(config):
    """A config with its defaults, without what may differ between two runs of one study."""
    resolve = {PretrainConfig: resolve_pretraining, FinetuneConfig: resolve_finetuning}[type(config)]
    size = {"num_train": 10**4} if resolve is resolve_pretraining else {}
    config = resolve(config, input_shape=(103,), **size)
    own = {"workdir", "data_dir", "seed", "method", "pretrained", "backbone"}
    return {name: value for name, value in vars(config).items() if name not in own}


@pytest.mark.parametrize("name", PAPERS_SETTINGS)
def test_the_papers_settings_are_those_of_the_flag_files_of_the_dataset(name):
    settings = parse(EXPERIMENTS / f"{name}.flags")
    dataset = settings["datasets"]
    allowed = {"epochs"} if dataset == "delicious" else set()  # 30 of pretraining are said in its header
    allowed |= {"validation_fraction", "select_by", "threshold"}  # the flag files keep validation apart
    compared = set()
    for trial, run in runs_of(settings):
        if trial.method == "bce" or run.phase in compared:
            continue
        compared.add(run.phase)
        file = REPOSITORY / "flags" / f"{dataset}_{run.phase}.flags"
        before = ["--pretrained=runs/before"] if run.phase == "finetune" else []
        theirs = config_of(run.config, flag_values(run.config, [f"--flagfile={file}", *before]))
        ours = config_of(run.config, flag_values(run.config, run.arguments))
        ours, theirs = resolved(ours), resolved(theirs)
        assert {key for key in ours if ours[key] != theirs[key]} <= allowed
    assert compared == {"pretrain", "finetune"}


def test_the_statement_names_those_whose_interval_leaves_out_zero():
    scores = {
        "mulsupcon": (0.50, 0.60, 0.70),
        "cld": (0.52, 0.62, 0.721),
        "any": (0.48, 0.58, 0.679),
        "rld": (0.5, 0.7, 0.6),
    }
    text = statement(Results({}, {}, [], scores_of(scores)), "d", "finetune", parse_baseline("method=mulsupcon"))
    assert text == (
        "mAP against mulsupcon: above it cld (+2.0); below it any (−2.0); the others show no clear difference. "
        "The sign-flip test of 3 pairs cannot go below p = 0.25."
    )


def test_one_seed_is_said_to_show_nothing():
    text = statement(
        Results({}, {}, [], scores_of({"bce": (0.5,), "cld": (0.9,)})), "d", "finetune", parse_baseline("method=bce")
    )
    assert text == "mAP against bce: no line shows a clear difference. One seed cannot tell a difference from chance."
