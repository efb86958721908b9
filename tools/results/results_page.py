"""Writes docs/results.md and its figures from the committed output of the experiments.

  cp runs/main/results.json tools/results/tables/main.json     # after mulsupcon_tf.experiment ... --workdir=runs/main
  python -m tools.results.results_page                          # docs/results.md and docs/results/*.png
  python -m tools.results.results_page --readme                 # prints the table for README.md

An experiment's results.json is committed as NAME.json, where flags/experiments/NAME.flags is its file of flags. A test holds
the page, and the table of results in README.md, to what is committed.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping

from mulsupcon_tf.config.command_line import run_binary
from mulsupcon_tf.config.fields import Validated, flag
from mulsupcon_tf.evaluation.results import METRIC_NAMES
from mulsupcon_tf.experiments.markdown import (
    PHASES,
    RETRIEVAL_TEXT,
    TITLES,
    compared_metrics,
    datasets_of,
    differences,
    differences_table,
    headline,
    lines_of,
    mean_and_deviation,
    metric_title,
    results_table,
    title_of,
)
from mulsupcon_tf.experiments.paired_tests import deviation_of, smallest_sign_flip_p
from mulsupcon_tf.experiments.plan import Baseline, parse_baseline
from mulsupcon_tf.experiments.table import Results, read_results
from mulsupcon_tf.utils import atomic_file
from tools.results.kernel_width import table as kernel_table
from tools.results.recovery_markdown import MEASURES, RELEVANT, table, values_of, verdict

# PyTorch 2.13 on CPU, 400 passes over train, means of 3 seeds, thresholds chosen on validation; in %, in the order of
# METRIC_NAMES. Its deviations were not kept.
ANCESTOR: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "scene": {
        "bce": (82.4, 78.2, 74.9, 74.5, 91.2, 74.8), "any": (84.3, 80.1, 77.8, 77.4, 92.2, 77.7),
        "all": (84.0, 80.1, 77.8, 77.3, 92.0, 77.7), "mulsupcon": (84.6, 80.4, 78.1, 77.6, 92.2, 77.5),
    },
    "yeast": {
        "bce": (46.5, 76.7, 45.1, 65.9, 79.7, 65.2), "any": (46.1, 75.9, 44.6, 65.9, 79.6, 65.2),
        "all": (50.2, 76.7, 47.3, 67.0, 80.5, 66.5), "mulsupcon": (49.0, 76.8, 46.7, 66.6, 80.1, 65.9),
    },
}  # fmt: skip

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
EXPERIMENTS = REPOSITORY / "flags" / "experiments"
TABLES = REPOSITORY / "tools" / "results" / "tables"
PAGE = REPOSITORY / "docs" / "results.md"
FIGURES = REPOSITORY / "docs" / "results"
# In the order of the page; each is a file of flags in flags/experiments.
SECTIONS = {
    "main": "Classification", "digits": "Classification of scenes of digits", "few_labels": "Few labels",
    "few_labels_fine_tuning": "Few labels to fine-tune on", "digits_few_labels": "Few scenes of digits",
    "digits_few_labels_control": "Few scenes of digits without the contrastive loss",
    "digits_few_labels_fine_tuning": "Few scenes of digits to fine-tune on",
    "recovery": "Recovery against truth", "without_recovery": "Without recovery",
    "sigma": "RBF against contrastive recovery", "rho": "How much of the distribution: ρ", "weigh_keys": "Weighted keys",
    "affinity": "Affinity of keys", "digits_affinity": "Neighbours that share the dominant label",
    "digits_recovery_flow": "Weights or recovery loss", "gradient": "Stop or flow", "alpha_beta": "α and β",
    "queue": "Queue size", "temperature": "Temperature", "epochs": "Epochs of pretraining",
}  # fmt: skip
README_SECTIONS = ("main", "digits")
_ANCESTOR_TEXT = (
    "Difference from what MulSupCon's own code (PyTorch) reaches in as many passes, thresholds chosen on validation; bold where\n"
    "ours is lower by more than its deviation over seeds:"
)
_DIFFERENCES = ("mAP", "macro_f1")
_UNSAID = {("finetune", "True"), ("linear_probe", "False"), ("retrieval", "False")}  # defaults


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultsPageConfig(Validated):
    """Settings of `tools/results/results_page.py`."""

    readme: bool = flag(False, "Print the table for README.md and write nothing.")


def main(settings: ResultsPageConfig) -> None:
    """Writes the page and its figures."""
    if settings.readme:
        print(readme_table())
        return
    from mulsupcon_tf.experiments.figures import draw_all

    atomic_file.write_text(PAGE, page())
    FIGURES.mkdir(exist_ok=True)
    wanted = set(re.findall(r"\(results/([^)]+)\.png\)", page()))
    for name in SECTIONS:
        results = committed(name)
        for figure, png in draw_all(results).items() if results else ():
            if f"{name}.{figure}" in wanted:
                with atomic_file.replacing(FIGURES / f"{name}.{figure}.png") as partial:
                    partial.write_bytes(png)
    for path in FIGURES.glob("*.png"):
        if path.stem not in wanted:
            path.unlink()


def committed(name: str) -> Results | None:
    """The committed results of an experiment, or None."""
    path = TABLES / f"{name}.json"
    return read_results(path) if path.exists() else None


def page() -> str:
    """The text of docs/results.md."""
    text = [
        "# Results",
        "",
        "Written by `python -m tools.results.results_page` from the tables in `tools/results/tables/`; a test compares. In words:",
        "[findings.md](findings.md).",
        "",
        "Unless a section says otherwise: test metrics in %, mean ± sample standard deviation over seeds, thresholds chosen on",
        "validation. Below each table more is folded away. Columns with a star choose thresholds on the test labels, as the paper",
        "did, and flatter. Differences are paired by seed, in points, with the 95% interval of Student's t and the exact sign-flip",
        "test; bold where the interval leaves out zero, which one comparison in twenty does by chance.",
        "",
        "Contents:",
        "",
        *(f"- [{title}](#{_anchor(title)})" for title in SECTIONS.values()),
    ]
    for name, title in SECTIONS.items():
        text += ["", f"## {title}", "", *_section(name)]
    return "\n".join(text) + "\n"


def _anchor(title: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _section(name: str) -> Iterator[str]:
    flags = (EXPERIMENTS / f"{name}.flags").read_text(encoding="utf-8").splitlines()
    header = [line.removeprefix("# ") for line in flags if line.startswith("#")]
    question = " ".join(header[2:]).removeprefix("Answers: ")
    yield f"{question[0].upper()}{question[1:]}"
    yield from ("", f"`{header[0]}`")
    if name == "sigma":
        yield from _kernel()
    results = committed(name)
    if results is None:
        yield from ("", "Not run yet.")
        return
    environment = results.environment
    versions = ", ".join(f"{package} {version}" for package, version in environment["versions"].items())
    yield ""
    machine = f"{environment['cores']} cores of {environment['processor']}, one for each run"
    yield f"{environment['runs']} runs, {environment['hours']} core-hours of training ({machine}); {versions}."
    yield f"With {', '.join(f'{key} {value}' for key, value in results.settings.items() if value and (key, value) not in _UNSAID)}."
    if any(row["phase"] == "recovery" for row in results.rows):
        yield from _recovery(results)
    else:
        yield from _classification(name, results, parse_baseline(results.settings["baseline"]))


def _kernel() -> Iterator[str]:
    measured = committed("kernel_width")
    if measured:
        yield from (
            "",
            "What the kernel sees of a sample's positives, those that share a label, on test after pretraining",
        )
        yield from (
            "(`tools/results/kernel_width.py`; medians over samples, means over seeds):",
            "",
            kernel_table(measured),
        )


def _recovery(results: Results) -> Iterator[str]:
    yield ""
    yield "`d` is what a method recovered, from the sample's features alone; `mixture` is half y/|y| and half d, of which label weights are"
    yield "made. Controls: y/|y|; 1/C, which knows nothing; y/|y| averaged over the ten nearest samples (smoothed); the probabilities of a"
    yield "classifier, binary cross-entropy from random weights, divided by their sum, alone and mixed as d is. The last rows are label"
    yield "enhancement by python-ldl, of test alone where train and test are more than 1000 samples. Smoothing, label enhancement and"
    yield "mixtures read the labels of the test samples, d and the classifier alone do not. But for digits these splits were drawn by"
    yield "number; today's version draws them by hash (datasets.md), so that the same commands judge other test samples."
    for dataset in datasets_of(results):
        values = values_of(results, dataset)
        yield from ("", f"### {dataset}", "", verdict(values), "", "All labels:", "", table(values, MEASURES))
        yield from ("", "The sample's own labels only:", "", table(values, RELEVANT))


def _classification(name: str, results: Results, baseline: Baseline) -> Iterator[str]:
    for dataset in datasets_of(results):
        for phase, title in PHASES.items():
            if not lines_of(results, dataset, phase):
                continue
            yield from ("", f"### {dataset}, {title}", "")
            for figure in _figures(results, dataset, phase):
                yield from (f"![{figure}](results/{name}.{figure}.png)", "")
            if phase == "retrieval":
                yield from (RETRIEVAL_TEXT, "")
            yield results_table(results, dataset, phase, ["validation"])
            compared = differences(results, dataset, phase, headline(results, dataset, phase), baseline)
            if compared:
                yield from ("", statement(results, dataset, phase, baseline))
            yield from _folded(results, dataset, phase, baseline)
            if name == "main" and phase == "finetune" and dataset in ANCESTOR:
                yield from ("", _ANCESTOR_TEXT, "", ancestor_table(results, dataset))


def _folded(results: Results, dataset: str, phase: str, baseline: Baseline) -> Iterator[str]:
    """What few readers ask for: thresholds chosen on test, and tests of significance."""
    titles, tables = [], []
    if phase != "retrieval":
        titles.append("thresholds chosen on test")
        tables.append(results_table(results, dataset, phase, ["paper"]))
    metrics = compared_metrics(phase, _DIFFERENCES)
    pairs = [
        difference.pairs
        for metric in metrics
        for difference in differences(results, dataset, phase, metric, baseline).values()
    ]
    if max(pairs, default=0) > 1:
        titles.append("paired differences")
        tables.append(differences_table(results, dataset, phase, baseline, metrics))
    if tables:
        title = " and ".join(titles)
        yield from ("", "<details>", f"<summary>{title[0].upper()}{title[1:]}</summary>", "")
        for table_of_section in tables:
            yield from (table_of_section, "")
        yield "</details>"


def statement(results: Results, dataset: str, phase: str, baseline: Baseline) -> str:
    """What the differences in mAP, or another headline of the phase, allow to say."""
    metric = headline(results, dataset, phase)
    compared = differences(results, dataset, phase, metric, baseline)
    name = " ".join(value if key == "method" else f"{key}={value}" for key, value in baseline.items())
    parts = []
    for what, chosen in (
        ("above", {line: d for line, d in compared.items() if d.low > 0}),
        ("below", {line: d for line, d in compared.items() if d.high < 0}),
    ):
        if chosen:
            listed = ", ".join(
                f"{title_of(line)} ({100 * d.mean:+.1f})".replace("-", "−") for line, d in chosen.items()
            )
            parts.append(f"{what} it {listed}")
    pairs = max(difference.pairs for difference in compared.values())
    rest = "the others show no clear difference" if parts else "no line shows a clear difference"
    return (
        f"{metric_title(phase, metric)} against {name}: {'; '.join([*parts, rest])}. "
        f"The sign-flip test of {pairs} pairs cannot go below p = {smallest_sign_flip_p(pairs):.3g}."
    )


def _figures(results: Results, dataset: str, phase: str) -> Iterator[str]:
    axes = [name for name in results.grid if len({row[name] for row in results.rows if name in row}) > 1]
    if len(axes) < 2:
        yield f"{dataset}.{phase}.{headline(results, dataset, phase)}"
    # Of few labels the table says more.
    if phase != "retrieval" and not results.grid and len(results.labels[dataset]["frequency"]) > 10:
        yield f"{dataset}.{phase}.labels"
    if len(axes) == 2:
        for method in dict.fromkeys(row["method"] for row in results.rows):
            yield f"{dataset}.{phase}.{method}.{axes[0]}-{axes[1]}"


def readme_table() -> str:
    """One table of mAP for README.md: a row a method, a column a dataset."""
    columns: dict[str, dict[str, str]] = {}
    for name in README_SECTIONS:
        results = committed(name)
        for dataset in datasets_of(results) if results else ():
            lines = lines_of(results, dataset, "finetune")
            columns[dataset] = {
                title_of(line): mean_and_deviation(list(measured["validation", "mAP"].values()))
                for line, measured in lines.items()
            }
    methods = dict.fromkeys(method for column in columns.values() for method in column)
    text = [f"| mAP (%) | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for method in methods:
        text.append(f"| `{method}` | {' | '.join(column.get(method, '') for column in columns.values())} |")
    return "\n".join(text)


def ancestor_table(results: Results, dataset: str) -> str:
    """Ours minus the ancestor's in points; bold where ours is lower by more than its own deviation over seeds.

    Both are rounded to one decimal first, as they are printed.
    """
    lines = lines_of(results, dataset, "finetune")
    text = [f"| method | {' | '.join(TITLES[name] for name in METRIC_NAMES)} |", "|---|" + "---|" * len(METRIC_NAMES)]
    for method, theirs in ANCESTOR[dataset].items():
        if (method, ()) not in lines:
            continue
        cells = []
        for name, their in zip(METRIC_NAMES, theirs, strict=True):
            values = [100 * value for value in lines[method, ()]["validation", name].values()]
            ours, deviation = round(sum(values) / len(values), 1), round(deviation_of(values), 1)
            cell = f"{round(ours - their, 1) + 0.0:+.1f}".replace("-", "−")
            cells.append(f"**{cell}**" if round(their - ours, 1) > deviation else cell)
        text.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(text)


if __name__ == "__main__":
    run_binary(ResultsPageConfig, main, usage=__doc__)
