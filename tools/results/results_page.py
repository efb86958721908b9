"""Writes docs/results.md and its figures from the committed output of the experiments.

  cp runs/held_out/results.json tools/results/tables/held_out.json   # after mulsupcon_tf.experiment ... --workdir=runs/held_out
  python -m tools.results.results_page                               # docs/results.md and docs/results/*.png

An experiment's results.json is committed as NAME.json, where flags/experiments/NAME.flags is its file of flags; without one
the page says how to make it. A test holds the page to what is committed.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence

from mulsupcon_tf.config.command_line import run_binary
from mulsupcon_tf.config.fields import Validated
from mulsupcon_tf.experiments.lines import (
    compared_metrics,
    differences,
    headline,
    lines_of,
    protocol_of,
    title_of,
)
from mulsupcon_tf.experiments.markdown import (
    HELD_OUT,
    PAPERS,
    PHASES,
    baseline_title,
    choice_text,
    differences_table,
    distributions_table,
    mean_and_deviation,
    metric_title,
    results_table,
    retrieval_text,
    what_pairs_can_show,
)
from mulsupcon_tf.experiments.plan import Baseline, parse_baseline
from mulsupcon_tf.experiments.table import Results, datasets_of, read_results
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.wording import counted, points
from tools.results.page_sections import SECTIONS, SUMMARY_SECTIONS
from tools.results.published import ANCESTOR, PAPER
from tools.results.published_markdown import published_table, reached
from tools.results.recovery_markdown import MEASURES, RELEVANT, table, values_of, verdict

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
EXPERIMENTS = REPOSITORY / "flags" / "experiments"
TABLES = REPOSITORY / "tools" / "results" / "tables"
PAGE = REPOSITORY / "docs" / "results.md"
FIGURES = REPOSITORY / "docs" / "results"
_PAPERS_PROTOCOL = "--validation_fraction=0"
_ANCESTOR_TEXT = (
    "Difference from what MulSupCon's own code (PyTorch) reaches, thresholds chosen on validation; bold where ours is lower by\n"
    "more than its deviation over seeds:"
)
_PAPER_TEXT = (
    "Difference from the paper's numbers, which are of one run without a deviation; bold where ours is lower by more than its own\n"
    "deviation over seeds:"
)
_DIFFERENCES = ("mAP", "macro_f1")
_UNSAID = {("finetune", "True"), ("linear_probe", "False"), ("retrieval", "False")}  # defaults


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultsPageConfig(Validated):
    """`tools/results/results_page.py` has no settings."""


def main(_: ResultsPageConfig) -> None:
    """Writes the page and its figures."""
    from mulsupcon_tf.experiments.figures import draw_all

    text = page()
    atomic_file.write_text(PAGE, text)
    FIGURES.mkdir(exist_ok=True)
    wanted = set(re.findall(r"\(results/([^)]+)\.png\)", text))
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
    """Puts docs/results.md together.

    Returns:
        The text of the page.
    """
    text = [
        "# Results\n",
        "Written by `python -m tools.results.results_page` from the tables in `tools/results/tables/`; a test compares. In words:",
        "[findings.md](findings.md).",
        "",
        "Test metrics in %, mean ± sample standard deviation over seeds. `bce` is the same classifier without contrastive pretraining,",
        "with the same masks, choice of epoch and, in total, epochs. Each section says which of two protocols it follows:",
        "",
        f"- **Held-out**: {HELD_OUT}",
        f"- **Paper's protocol**, for comparison with the published tables. {PAPERS}",
        "",
        "Differences are paired by seed, in points, with the 95% interval of Student's t and the exact sign-flip test; bold where the",
        "interval leaves out zero, which one comparison in twenty does by chance.",
        "",
        "Held-out, mAP:",
        "",
        summary_table([committed(name) for name in SUMMARY_SECTIONS]),
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
    flags = (EXPERIMENTS / f"{name}.flags").read_text(encoding="utf-8")
    header = [line.removeprefix("# ") for line in flags.splitlines() if line.startswith("#")]
    question = " ".join(header[2:]).removeprefix("Answers: ")
    yield f"{question[0].upper()}{question[1:]}"
    if name != "recovery":
        yield ""
        protocol = "the paper's, which is optimistic" if _PAPERS_PROTOCOL in flags else "held-out"
        yield f"Protocol: {protocol}."
    results = committed(name)
    if results is None:
        yield from ("", f"Not run yet. {header[1].removesuffix('.')}:", "", f"`{header[0]}`")
        return
    yield from ("", f"`{header[0]}`", "")
    environment = results.environment
    versions = ", ".join(f"{package} {version}" for package, version in environment["versions"].items())
    machine = f"{counted(environment['cores'], 'core')} of {environment['processor']}, one for each run"
    yield f"{environment['runs']} runs, {environment['hours']} core-hours of training ({machine}); {versions}."
    yield f"With {', '.join(f'{key} {value}' for key, value in results.settings.items() if value and (key, value) not in _UNSAID)}."
    if any(row["phase"] == "recovery" for row in results.rows):
        yield from _recovery(results)
    else:
        yield from _classification(name, results, parse_baseline(results.settings["baseline"]))


def _recovery(results: Results) -> Iterator[str]:
    yield ""
    yield "`d` is what a method learnt, from the sample's features alone; `live` and `constant` is `--own_distribution`. Controls: y/|y|;"
    yield "1/C, which knows nothing; y/|y| averaged over the ten nearest samples (smoothed); the probabilities of a classifier, binary"
    yield "cross-entropy from random weights, divided by their sum. The last rows are label enhancement by python-ldl, of test alone where"
    yield "train and test are more than 1000 samples. Smoothing and label enhancement read the labels of the test samples, d and the"
    yield "classifier do not; on the sample's own labels all are compared alike."
    for dataset in datasets_of(results):
        values = values_of(results, dataset)
        yield from ("", f"### {dataset}", "", verdict(values), "", "All labels:", "", table(values, MEASURES))
        yield from ("", "The sample's own labels only:", "", table(values, RELEVANT))


def _classification(name: str, results: Results, baseline: Baseline) -> Iterator[str]:
    for dataset in datasets_of(results):
        if choice := choice_text(results, dataset):
            yield from ("", choice)
        distributions = distributions_table(results, dataset)
        if distributions:
            yield from ("", f"### {dataset}, label distributions", "", distributions)
        for phase, title in PHASES.items():
            if len(lines_of(results, dataset, phase)) < 2:  # in a study of search `bce` alone is a classifier
                continue
            yield from ("", f"### {dataset}, {title}", "")
            if phase == "retrieval":
                yield from (retrieval_text(results, dataset), "")
            yield results_table(results, dataset, phase, starred=False)
            if differences(results, dataset, phase, headline(results, dataset, phase), baseline):
                yield from ("", statement(results, dataset, phase, baseline))
            yield from _folded(results, dataset, phase, baseline)
            if name == "held_out" and phase == "finetune" and dataset in ANCESTOR:
                yield from ("", _ANCESTOR_TEXT, "", published_table(results, dataset, ANCESTOR[dataset]))
            if name.startswith("reproduction") and phase == "finetune":
                yield from ("", _PAPER_TEXT, "", published_table(results, dataset, PAPER[dataset]))
                yield from ("", reached(results, dataset))
            for figure in _figures(results, dataset, phase):
                yield from ("", f"![{figure}](results/{name}.{figure}.png)")


def _folded(results: Results, dataset: str, phase: str, baseline: Baseline) -> Iterator[str]:
    """What few readers ask for: thresholds that are best on test, and tests of significance."""
    parts = {}
    if "validation" in map(protocol_of, lines_of(results, dataset, phase).values()):
        parts["thresholds chosen on test"] = results_table(results, dataset, phase)
    metrics = compared_metrics(results, dataset, phase, _DIFFERENCES)
    compared = [differences(results, dataset, phase, metric, baseline) for metric in metrics]
    if max((difference.pairs for found in compared for difference in found.values()), default=0) > 1:
        parts["paired differences"] = differences_table(results, dataset, phase, baseline, metrics)
    if parts:
        title = " and ".join(parts)
        yield from ("", "<details>", f"<summary>{title[0].upper()}{title[1:]}</summary>", "")
        for text in parts.values():
            yield from (text, "")
        yield "</details>"


def statement(results: Results, dataset: str, phase: str, baseline: Baseline) -> str:
    """What the differences in mAP, or another headline of the phase, allow to say."""
    metric = headline(results, dataset, phase)
    compared = differences(results, dataset, phase, metric, baseline)
    parts = []
    for what, chosen in (
        ("above", {line: d for line, d in compared.items() if d.low > 0}),
        ("below", {line: d for line, d in compared.items() if d.high < 0}),
    ):
        if chosen:
            listed = ", ".join(f"{title_of(line)} ({points(d.mean)})" for line, d in chosen.items())
            parts.append(f"{what} it {listed}")
    pairs = max(difference.pairs for difference in compared.values())
    rest = "the others show no clear difference" if parts else "no line shows a clear difference"
    return (
        f"{metric_title(phase, metric)} against {baseline_title(baseline, phase)}: {'; '.join([*parts, rest])}. "
        + what_pairs_can_show(pairs)
    )


def _figures(results: Results, dataset: str, phase: str) -> Iterator[str]:
    from mulsupcon_tf.experiments.figures import heat_maps

    maps = heat_maps(results, dataset, phase)
    yield from maps or [f"{dataset}.{phase}.{headline(results, dataset, phase)}"]
    # Of few labels the table says more.
    if phase != "retrieval" and not results.grid and len(results.labels[dataset]["frequency"]) > 10:
        yield f"{dataset}.{phase}.labels"


def summary_table(parts: Sequence[Results | None]) -> str:
    """One table of mAP for all held-out sets: a row a method, a column a dataset.

    Args:
        parts: results of the studies that it shows, None for one that has not run yet.
    """
    columns = {
        dataset: {
            title_of(line): mean_and_deviation(list(measured["validation", "mAP"].values()))
            for line, measured in lines_of(results, dataset, "finetune").items()
        }
        for results in parts
        if results
        for dataset in datasets_of(results)
    }
    methods = dict.fromkeys(method for column in columns.values() for method in column)
    text = [f"| mAP (%) | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for method in methods:
        text.append(f"| `{method}` | {' | '.join(column.get(method, '') for column in columns.values())} |")
    return "\n".join(text)


if __name__ == "__main__":
    run_binary(ResultsPageConfig, main, usage=__doc__)
