"""docs/results.md, docs/findings.md, README.md and the files of flags against the committed tables."""

import re

import numpy as np
import pytest
from absl import flags

from mulsupcon_tf.config.command_line import define_flags
from mulsupcon_tf.evaluation.results import METRIC_NAMES
from mulsupcon_tf.experiment import ExperimentConfig
from mulsupcon_tf.experiments.markdown import differences
from mulsupcon_tf.experiments.plan import Plan, make_trials, parse_baseline, split_flags
from mulsupcon_tf.experiments.table import Results
from tools.results.recovery import RecoveryConfig
from tools.results.recovery_markdown import values_of
from tools.results.results_page import (
    ANCESTOR,
    EXPERIMENTS,
    PAGE,
    README_SECTIONS,
    REPOSITORY,
    SECTIONS,
    TABLES,
    ancestor_table,
    committed,
    page,
    readme_table,
    statement,
)

FLAGFILES = sorted(EXPERIMENTS.glob("*.flags"))
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
FINDINGS = (REPOSITORY / "docs" / "findings.md").read_text(encoding="utf-8")
COMMITTED = [name for name in SECTIONS if committed(name)]


def parse(path):
    config_class = RecoveryConfig if path.stem == "recovery" else ExperimentConfig
    values = flags.FlagValues()
    define_flags(config_class, flag_values=values)
    command = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# python -m ").split()
    assert command[0] == config_class.__module__
    rest = values(["program", f"--flagfile={path}", *command[2:]])
    assert rest == ["program"] and command[1] == f"--flagfile={path.relative_to(REPOSITORY)}"
    return {name: values[name].value for name in values if name in config_class.__dataclass_fields__}


def test_the_page_is_what_the_committed_tables_make_of_it():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tools.results.results_page writes it anew"


def test_every_figure_on_the_page_is_there_and_no_other():
    shown = set(re.findall(r"\((results/[^)]+\.png)\)", page()))
    assert shown == {f"results/{path.name}" for path in (PAGE.parent / "results").iterdir()}


def test_the_table_in_the_readme_is_that_of_the_committed_tables():
    table = readme_table()
    assert f"\n{table}\n" in README, "python -m tools.results.results_page --readme prints it"
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert header[1:] == ["scene", "yeast", "corel5k", "digits"] and len(rows) == 7
    for method, *cells in rows:
        for dataset, cell in zip(header[1:], cells, strict=True):
            values = [
                100 * row["value"]
                for name in README_SECTIONS
                for row in committed(name).rows
                if row["method"] == method.strip("`") and is_map_on(row, dataset)
            ]
            assert cell == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def test_what_readme_says_in_short_stands_in_the_findings():
    numbers = re.findall(r"\d+\.\d", README.split("In our trials:")[1].split("## ")[0])
    assert len(numbers) > 3
    assert [number for number in numbers if not re.search(rf"[+−]{number} ±", FINDINGS)] == []


def test_recovery_on_digits_is_that_of_the_committed_table():
    measures = ["kl_relevant", "chebyshev_relevant", "cosine_relevant", "intersection_relevant", "pair_concordance"]
    candidates = {
        "recovered d": "cld d", "mixture": "cld mixture", "uniform": "y/|y|", "smoothed": "smoothed",
        "classifier's": "classifier", "with the classifier": "classifier, mixed",
    }  # fmt: skip
    values = values_of(committed("recovery"), "digits")
    for title, name in candidates.items():
        (line,) = re.findall(
            rf"^\| {title}[^|]*(?:\\\|[^|]*)*\|((?: \d\.\d{{3}}[^|]*\|){{5}})$", FINDINGS, flags=re.MULTILINE
        )
        for cell, measure in zip(line.split("|"), measures, strict=False):
            mean, *deviation = map(float, cell.split("±"))
            assert mean == pytest.approx(np.mean(values[name][measure]), abs=0.000501), (name, measure)
            assert sum(deviation) == pytest.approx(np.std(values[name][measure], ddof=1), abs=0.000501), (name, measure)
    over_all = {name: f"{np.mean(values[name]['kl']):.3f}" for name in values}
    assert f"(KL {over_all['y/|y|']} against {over_all['cld mixture']} of the mixture)" in FINDINGS
    assert over_all["y/|y|"] == min(over_all.values())


def section_of(title):
    return FINDINGS.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_what_is_said_of_classification_is_in_its_tables():
    said = section_of("Classification")
    tables = {"scene": "main", "yeast": "main", "corel5k": "main", "digits": "digits"}
    _, *sentences = re.split(rf"On ({'|'.join(tables)}) ", said.split("against `mulsupcon`:")[1])
    assert sentences[::2] == list(tables)
    found = [
        (dataset, *number)
        for dataset, sentence in zip(sentences[::2], sentences[1::2], strict=True)
        for number in re.findall(r"`(\w+)`\s+\(?([+−]\d\.\d) ± (\d\.\d)", sentence)
    ]
    assert {name for dataset, name, *_ in found if dataset == "yeast"} == {"all", "jaccard", "any", "rld", "cld"}
    assert len(found) == 14
    for dataset, name, mean, deviation in found:
        scores = {
            method: {
                row["seed"]: 100 * row["value"] for row in committed(tables[dataset]).rows
                if (row["dataset"], row["method"], row["phase"], row["protocol"], row["metric"])
                == (dataset, method, "finetune", "validation", "mAP")
            }
            for method in (name, "mulsupcon")
        }  # fmt: skip
        pairs = np.array([scores[name][seed] - scores["mulsupcon"][seed] for seed in scores["mulsupcon"]])
        assert float(mean.replace("−", "-")) == pytest.approx(pairs.mean(), abs=0.0501), name
        assert float(deviation) == pytest.approx(pairs.std(ddof=1), abs=0.0501), name
    behind = sum(
        len(re.findall(r"\*\*−", ancestor_table(committed("main"), dataset))) for dataset in ("scene", "yeast")
    )
    assert f"ahead by more than one deviation in {('none', 'one', 'two')[behind]}:" in said


def compared(name, dataset, baseline, line, *, phase="finetune", metric="mAP"):
    """Number of pairs, and the difference of a line as the page writes it."""
    found = differences(committed(name), dataset, phase, metric, parse_baseline(baseline))[line]
    return found.pairs, f"{100 * found.mean:+.1f} ± {100 * found.deviation:.1f}".replace("-", "−")


def numbers_in(said):
    return re.findall(r"[+−]\d+\.\d ± \d\.\d", said)


def test_what_is_said_of_affinity_is_in_its_table():
    said, expected = section_of("Affinity of keys"), []
    power = (("affinity_power", "16"),)
    for dataset in ("yeast", "corel5k", "scene"):
        expected += [
            compared("affinity", dataset, "affinity_power=0", (method, power)) for method in ("cld", "mulsupcon")
        ]
    expected += [
        compared("affinity", dataset, "method=mulsupcon", ("cld", power)) for dataset in ("yeast", "corel5k", "scene")
    ]
    assert [(5, number) for number in numbers_in(said)] == expected


def test_what_is_said_of_search_is_in_its_table():
    said, expected = section_of("Search"), []

    def with_power(baseline, method, power, metric, phase="retrieval"):
        line = method, (("affinity_power", power),)
        return compared("digits_affinity", "digits", baseline, line, phase=phase, metric=metric)

    metrics = ("mAP", "dominant", "ndcg_distributions")
    lines = (("cld", "0"), ("mulsupcon", "16"), ("cld", "16"), ("truth", "16"))
    for metric in metrics:
        expected += [with_power("method=mulsupcon affinity_power=0", *line, metric) for line in lines]
    control = "method=mulsupcon affinity_power=16"
    expected += [with_power(control, "cld", "16", metric) for metric in metrics]
    expected.append(with_power(control, "cld", "16", "mAP", phase="finetune"))
    for baseline, rho in (("method=mulsupcon", "0"), ("method=cld rho=0", "0.5")):
        line = "cld", (("rho", rho),)
        for phase, metric in (*(("retrieval", metric) for metric in metrics), ("finetune", "mAP")):
            expected.append(compared("digits_recovery_flow", "digits", baseline, line, phase=phase, metric=metric))
            each = differences(committed("digits_recovery_flow"), "digits", phase, metric, parse_baseline(baseline))
            assert each[line].low < 0 < each[line].high  # "neither part alone is clear"
    assert [(5, number) for number in numbers_in(said)] == expected


def test_what_is_said_of_few_labels_is_in_their_tables():
    said, expected = section_of("Few labels"), []
    without_contrast = "method=mulsupcon bce_warmup_epochs=150"
    whole = "mulsupcon", (("label_fraction", "0.1"), ("bce_warmup_epochs", "0"))
    for name, setting in (
        ("digits_few_labels", "label_fraction"),
        ("digits_few_labels_fine_tuning", "finetune.label_fraction"),
    ):
        for method in ("mulsupcon", "rld", "cld"):
            expected.append(compared(name, "digits", "method=bce", (method, ((setting, "0.1"),))))
    expected.insert(3, compared("digits_few_labels_control", "digits", without_contrast, whole))
    control = differences(
        committed("digits_few_labels_control"), "digits", "finetune", "mAP", parse_baseline(without_contrast)
    )
    assert control[whole].low < 0  # "not the contrastive loss's doing"
    both = differences(committed("digits_few_labels"), "digits", "finetune", "mAP", parse_baseline("method=bce"))
    assert all(one.low > 0 for one in both.values())  # "each clear"
    for dataset, method in (
        *(("scene", "mulsupcon"), ("scene", "cld"), ("yeast", "mulsupcon"), ("yeast", "cld")),
        *(("scene", "self"), ("yeast", "self")),
    ):
        expected.append(compared("few_labels", dataset, "method=bce", (method, (("label_fraction", "0.1"),))))
    assert [(5, number) for number in numbers_in(said)] == expected


RHOS = ("0", "0.25", "0.5", "0.75", "1")


def is_map_on(row, dataset):
    return (row["dataset"], row["phase"], row["protocol"], row["metric"]) == (dataset, "finetune", "validation", "mAP")


def clear_lines(name, baseline):
    """(Dataset, line) of those of twelve whose interval of mAP against the baseline leaves out 0."""
    lines = {
        (dataset, line): one
        for dataset in ("scene", "yeast")
        for line, one in differences(committed(name), dataset, "finetune", "mAP", parse_baseline(baseline)).items()
    }
    assert len(lines) == 12
    return [line for line, one in lines.items() if not one.low < 0 < one.high]


def test_what_is_said_of_sensitivity_is_in_its_tables():
    said = section_of("Sensitivity")
    expected = [
        compared("rho", dataset, f"method={method} rho=0", (method, (("rho", "1"),)))
        for dataset in ("yeast", "scene")
        for method in ("cld", "rld")
    ]
    for name, baseline, clear in (
        ("temperature", "temperature=0.1", ("yeast", ("mulsupcon", (("temperature", "0.05"),)))),
        ("queue", "queue_size=256", ("yeast", ("mulsupcon", (("queue_size", "128"),)))),
    ):
        assert clear_lines(name, baseline) == [clear]
        expected.append(compared(name, clear[0], baseline, clear[1]))
    lines = clear_lines("epochs", "pretrain.epochs=400")
    asked = [
        ("scene", ("mulsupcon", (("pretrain.epochs", "25"),))),
        ("scene", ("cld", (("pretrain.epochs", "25"),))),
        ("yeast", ("mulsupcon", (("pretrain.epochs", "100"),))),
        ("scene", ("mulsupcon", (("pretrain.epochs", "800"),))),
    ]
    assert set(lines) == set(asked)
    expected += [compared("epochs", dataset, "pretrain.epochs=400", line) for dataset, line in asked]
    assert [(3, number) for number in numbers_in(said)] == expected
    short, alone = (
        np.mean([row["value"] for row in committed(name).rows if is_map_on(row, "scene") and asked(row)])
        for name, asked in (
            ("epochs", lambda row: row["pretrain.epochs"] == "25"),
            ("main", lambda row: row["method"] == "bce"),
        )
    )
    assert abs(short - alone) < 0.2  # "what BCE alone reaches"
    means = [
        np.mean([row["value"] for row in committed("rho").rows if is_map_on(row, "yeast") and row["rho"] == rho])
        for rho in RHOS
    ]
    assert means == sorted(means, reverse=True)  # "the more, the worse"
    cells = differences(committed("alpha_beta"), "yeast", "finetune", "mAP", parse_baseline("alpha=1 beta=0.001"))
    assert len(cells) == 25 - 1
    assert all(cell.low < 0 < cell.high for cell in cells.values())


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_table_knows_its_environment_and_has_values_of_every_kind_it_shows(name):
    results = committed(name)
    assert {"processor", "cores", "system", "runs", "hours", "versions"} <= set(results.environment)
    assert {"python", "tensorflow", "keras", "numpy"} <= set(results.environment["versions"])
    keys = [tuple(row.get(column) for column in results.columns[:-1]) for row in results.rows]
    assert len(keys) == len(set(keys)) > 0
    assert all(isinstance(row["value"], float | int) for row in results.rows)


def test_every_section_has_a_file_of_flags_and_every_file_a_section():
    assert {path.stem for path in FLAGFILES} == set(SECTIONS)
    assert {path.stem for path in TABLES.iterdir()} <= {*SECTIONS, "kernel_width"}


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_a_file_of_flags_says_command_time_and_question_and_asks_for_runs(path):
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert re.fullmatch(r"# Takes about \d+ (minutes|hours?)( \d+ minutes)? on 2 CPU cores.*", header[1])
    assert header[2].startswith("# Answers: ")
    settings = parse(path)
    if path.stem != "recovery":
        trials = make_trials(settings["datasets"], settings["methods"], settings["seeds"], settings["grid"])
        assert parse_baseline(settings["baseline"])
        further = {phase: split_flags(settings[f"{phase}_flags"]) for phase in ("pretrain", "finetune", "bce")}
        assert all(
            run.settings() for trial in trials for run in Plan(EXPERIMENTS, None, trials, further, False).runs(trial)
        )
    if path.stem in ("main", "digits"):
        assert set(settings["methods"].split(",")) >= {"bce", "any", "all", "jaccard", "mulsupcon", "rld", "cld"}
        assert settings["datasets"] == {"main": "scene,yeast,corel5k", "digits": "digits"}[path.stem]
        assert settings["seeds"] == "0,1,2,3,4"


def test_on_digits_bce_has_the_epochs_of_both_phases():
    settings = parse(EXPERIMENTS / "digits.flags")
    epochs = [re.search(r"--epochs=(\d+)", settings[f"{phase}_flags"])[1] for phase in ("pretrain", "finetune", "bce")]
    assert int(epochs[0]) + int(epochs[1]) == int(epochs[2])


def test_the_statement_names_those_whose_interval_leaves_out_zero():
    scores = {
        "mulsupcon": (0.50, 0.60, 0.70),
        "cld": (0.52, 0.62, 0.721),
        "any": (0.48, 0.58, 0.679),
        "rld": (0.5, 0.7, 0.6),
    }
    rows = [
        {
            "dataset": "d", "method": method, "seed": seed, "phase": "finetune", "protocol": "validation", "metric": "mAP",
            "value": value,
        }
        for method, values in scores.items() for seed, value in enumerate(values)
    ]  # fmt: skip
    text = statement(Results({}, {}, [], rows), "d", "finetune", parse_baseline("method=mulsupcon"))
    assert text == (
        "mAP against mulsupcon: above it cld (+2.0); below it any (−2.0); the others show no clear difference. "
        "The sign-flip test of 3 pairs cannot go below p = 0.25."
    )


def test_a_cell_is_bold_where_ours_is_lower_by_more_than_its_deviation():
    theirs = ANCESTOR["scene"]["any"]
    # mAP 0.6 lower, deviation 0.1; P@1 0.6 lower, deviation 1; the others 0.2 higher.
    offsets = [(-0.7, -0.6, -0.5), (-1.6, -0.6, 0.4), *[(0.2, 0.2, 0.2)] * 4]
    rows = [
        {
            "dataset": "scene", "method": "any", "seed": seed, "phase": "finetune", "protocol": "validation", "metric": name,
            "value": (their + offset) / 100,
        }
        for name, their, seeds in zip(METRIC_NAMES, theirs, offsets, strict=True) for seed, offset in enumerate(seeds)
    ]  # fmt: skip
    lines = ancestor_table(Results({}, {}, [], rows), "scene").splitlines()
    assert lines[2:] == ["| any | **−0.6** | −0.6 | +0.2 | +0.2 | +0.2 | +0.2 |"]
