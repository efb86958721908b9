"""The order of a report's sections, its title, its opening and its last line."""

import logging
import pathlib
from collections.abc import Sequence

from mulsupcon_tf.reporting import page, sections
from mulsupcon_tf.reporting.fonts import letters_without_font
from mulsupcon_tf.reporting.gallery import gallery_section, map_section
from mulsupcon_tf.reporting.inputs import ReportInputs
from mulsupcon_tf.reporting.neighbours import neighbours_section
from mulsupcon_tf.reporting.recovered import recovered_section
from mulsupcon_tf.reporting.reliability import reliability_section
from mulsupcon_tf.reporting.sentences import comparison_sentence, percent
from mulsupcon_tf.reporting.training_curves import training_section
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.optional_packages import require_matplotlib

_SHOWN_LETTERS = 20


def build_document(inputs: ReportInputs) -> str:
    """The whole HTML document; sections whose run or data are missing are left out."""
    parts = [
        _opening(inputs),
        sections.results_section(inputs),
        reliability_section(inputs),
        sections.recovery_section(inputs),
        recovered_section(inputs),
        gallery_section(inputs),
        neighbours_section(inputs),
        map_section(inputs),
        sections.labels_section(inputs),
        training_section(inputs),
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


def write_report(
    workdirs: Sequence[str | pathlib.Path],
    output: str | pathlib.Path,
    *,
    data_dir: str | None = None,
    allow_changed_data: bool = False,
) -> pathlib.Path:
    """Writes the report of one to three finished run directories.

    Args:
        workdirs: of a pretraining, a fine-tuning from it and a BCE-only run, in any order.
        output: the HTML file; folders above it are made.
        data_dir: folder of the data, where it is no longer that of the runs.
        allow_changed_data: whether the data may be others than those that the runs saw.

    Returns:
        The path of the file.

    Raises:
        InputError: the directories are no finished runs or do not belong together, the data have changed, the output is a
            folder, or matplotlib is missing.
        OSError: the file cannot be written, which is tried before anything is drawn.
    """
    from mulsupcon_tf.reporting.inputs import load_inputs

    require_matplotlib()
    path = pathlib.Path(output)
    if path.is_dir():
        raise InputError(f"--output must be a file. Received: the folder {path}")
    inputs = load_inputs(workdirs, data_dir=data_dir, allow_changed_data=allow_changed_data)
    atomic_file.require_writable(path)
    letters = letters_without_font(inputs.dataset.label_names)
    if letters:
        logging.getLogger("mulsupcon_tf").warning(
            "warning: figures show boxes for letters of labels that no font here has: %s; a font of that script, such as Noto Sans "
            "CJK, mends it",
            "".join(letters[:_SHOWN_LETTERS]),
        )
    document = build_document(inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write_text(path, document)
    return path
