"""Curves over the epochs: losses of the pretraining, losses and validation mAP of the classifiers."""

import functools

from mulsupcon_tf.reporting import figures, page
from mulsupcon_tf.reporting.inputs import ReportInputs, Run
from mulsupcon_tf.reporting.sentences import curve_caption

Series = tuple[list[int], list[float]]  # epochs and values

_KEPT = {"mAP": "its best validation mAP", "loss": "its lowest validation loss", "last": "the last"}


def training_section(inputs: ReportInputs) -> str | None:
    """Curves of all runs; None where no epoch was logged."""
    parts = []
    if inputs.pretrain and inputs.pretrain.epochs:
        parts += ["<h3>Pretraining</h3>", page.block("plots", _pretraining_curves(inputs.pretrain))]
    plots = [picture for run in inputs.classifiers if run.epochs for picture in _classifier_curves(run)]
    if plots:
        parts += ["<h3>Classifiers</h3>", page.block("plots", plots)]
    return page.section("training", "Training", parts) if parts else None


def _series(run: Run, key: str) -> Series:
    records = [record for record in run.epochs if record.get(key) is not None]
    return [record["epoch"] for record in records], [record[key] for record in records]


def contrastive_loss_a_positive(run: Run) -> Series:
    """The contrastive loss over the number of positives of an anchor, over which that of some methods is a sum."""
    epochs, losses = _series(run, "contrastive_loss")
    positives = dict(zip(*_series(run, "positives"), strict=True))
    return epochs, [loss / (positives.get(epoch) or 1.0) for epoch, loss in zip(epochs, losses, strict=True)]


def _pretraining_curves(run: Run) -> list[str]:
    series = functools.partial(_series, run)
    plots = [
        ("The sum of all training losses", "loss", {"total loss": series("loss")}, (), ""),
        (
            "The contrastive loss a positive",
            "loss",
            {"contrastive loss": contrastive_loss_a_positive(run), "ln K": series("log_num_keys")},
            ("ln K",),
            " Dashed: ln K, its value when all keys look alike; it rises while the queue fills.",
        ),
        ("The mass of d on labels that a sample lacks", "leak", {"leak": series("leak")}, (), ""),
        ("The similarity G of distributions", "G of an anchor", {"G": series("similarity_loss")}, (), ""),
        ("The alignment H of distributions to labels", "H of an anchor", {"H": series("alignment_loss")}, (), ""),
        ("Binary cross-entropy beside the contrastive loss", "loss", {"BCE beside it": series("bce_loss")}, (), ""),
        ("The mAP of nearest neighbours on validation", "mAP", {"kNN mAP": series("knn_mAP")}, (), ""),
        (
            "The distance between two views of a sample",
            "alignment, uniformity",
            {"alignment": series("alignment"), "uniformity": series("uniformity")},
            ("uniformity",),
            " Dashed: uniformity, 0 when all samples are one point and about −4 when they are spread evenly.",
        ),
    ]
    pictures = []
    for what, y_label, found, dashed, remark in plots:
        lines = {name: line for name, line in found.items() if line[0]}
        if not lines:
            continue
        _, values = next(iter(lines.values()))
        caption = curve_caption(what, values) + (remark if len(lines) > 1 else "")
        png = figures.curves(lines, y_label=y_label, dashed=dashed)
        pictures.append(page.figure(page.image(png, what), caption))
    return pictures


def _classifier_curves(run: Run) -> list[str]:
    losses = {"train": _series(run, "loss"), "validation": _series(run, "val_loss")}
    losses = {name: line for name, line in losses.items() if line[0]}
    last, (_, values) = list(losses.items())[-1]
    caption = f"{run.title}: {curve_caption(f'{last} loss', values)}"
    caption += f" The weights of epoch {run.summary['best_epoch']} were kept, {_KEPT[run.summary['selected_by']]}."
    png = figures.curves(losses, y_label=run.loss_title, dashed=("validation",))
    pictures = [page.figure(page.image(png, f"Losses of {run.title}"), caption)]
    scores = _series(run, "val_mAP")
    if scores[0]:
        caption = f"{run.title}: {curve_caption('validation mAP', scores[1])}"
        png = figures.curves({"mAP": scores}, y_label="mAP on validation")
        pictures.append(page.figure(page.image(png, f"Validation mAP of {run.title}"), caption))
    return pictures
