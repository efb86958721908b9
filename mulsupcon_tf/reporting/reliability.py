"""The section of a report that says whether probabilities can be taken at their word."""

from mulsupcon_tf.reporting import figures, page
from mulsupcon_tf.reporting.inputs import ReportInputs
from mulsupcon_tf.reporting.sentences import join_words, percent


def reliability_section(inputs: ReportInputs) -> str | None:
    """Reliability diagram and calibration errors on test; None without a classifier, or for those of older versions."""
    found = {
        run.title: (run.summary, run.summary["details"]["test"])
        for run in inputs.classifiers
        if "reliability" in run.summary["details"]["test"]
    }
    if not found:
        return None
    errors = [f"{percent(details['calibration_error'])} % of {title}" for title, (_, details) in found.items()]
    caption = (
        "Decisions on test, all samples and labels together, in bins of their probability. On the diagonal a label that is given "
        f"70 % is there in 7 of 10 samples. Expected calibration error, the mean distance to it: {join_words(errors)}."
    )
    for title, (summary, _) in found.items():
        if "calibration" in summary:
            temperature, offset = (summary["calibration"][name] for name in ("temperature", "offset"))
            moved = f" and moved by {offset:.2f}" if offset else ""
            caption += f" Logits of {title} are divided by {temperature:.2f}{moved}, as fits validation best."
    png = figures.reliability({title: details["reliability"] for title, (_, details) in found.items()})
    picture = page.figure(page.image(png, "Share of decisions that are right over their probability"), caption, "wide")
    return page.section("reliability", "Probabilities", [picture])
