"""The order of a report's sections, its title, its opening and its last line."""

import report_page as page
import report_sections as sections
from report_gallery import gallery_section, map_section
from report_inputs import ReportInputs
from report_neighbours import neighbours_section
from report_recovered import recovered_section
from report_sentences import comparison_sentence, percent


def build_document(inputs: ReportInputs) -> str:
    """The whole HTML document; sections whose run or data are missing are left out."""
    parts = [
        _opening(inputs),
        sections.results_section(inputs),
        sections.recovery_section(inputs),
        recovered_section(inputs),
        gallery_section(inputs),
        neighbours_section(inputs),
        map_section(inputs),
        sections.labels_section(inputs),
        sections.training_section(inputs),
        sections.settings_section(inputs),
    ]
    return page.page(_title(inputs), [part for part in parts if part], _footer(inputs))


def _title(inputs: ReportInputs) -> str:
    if inputs.finetune and inputs.bce:
        return f"{inputs.finetune.title} against {inputs.bce.title} on {inputs.dataset.name}"
    return f"{(inputs.classifiers or inputs.runs)[0].title} on {inputs.dataset.name}"


def _opening(inputs: ReportInputs) -> str:
    """The verdict and a few large numbers."""
    parts = []
    if inputs.changed_data:
        parts.append(page.paragraph(f"The data have changed since the runs: {inputs.changed_data}."))
    for run in inputs.runs:
        if "changed_data" in run.summary:
            parts.append(page.paragraph(f"{run.title} was trained on changed data: {run.summary['changed_data']}."))
    if inputs.finetune and inputs.bce:
        verdict = comparison_sentence(
            inputs.finetune.title, inputs.finetune.summary["test"], inputs.bce.summary["test"], inputs.budgets
        )
        parts.append(page.paragraph(verdict, "lead"))
    tiles = [
        page.tile(f"{percent(run.summary['test']['mAP'])} %", f"mAP on test, {run.title}") for run in inputs.classifiers
    ]
    if inputs.recovery:
        kl = {name: f"{inputs.recovery[name]['kl_relevant']:.3f}" for name in ("recovered", "uniform")}
        tiles.append(page.tile(kl["recovered"], "KL of recovered d to the truth on a sample's own labels"))
        tiles.append(page.tile(kl["uniform"], "the same KL for the uniform control y/|y|"))
    if tiles:
        parts.append(page.block("tiles", tiles))
    return f'<section id="opening">{"".join(parts)}</section>'


def _footer(inputs: ReportInputs) -> str:
    versions = [f"{name} {version}" for name, version in inputs.runs[0].summary["versions"].items()]
    seeds = sorted({run.summary["seed"] for run in inputs.runs})
    return f"{' · '.join(versions)} · seed {', '.join(map(str, seeds))}. One seed's numbers; another seed gives others."
