"""Test samples with bars of what was predicted and recovered, and maps of them in embedding space."""

import numpy as np

from mulsupcon_tf.datasets.base import ImageFiles, Split
from mulsupcon_tf.evaluation.distribution_distances import KL_FLOOR, kl_divergence
from mulsupcon_tf.evaluation.nearest import nearest_rows, unit_rows
from mulsupcon_tf.reporting import figures, page
from mulsupcon_tf.reporting.inputs import ReportInputs
from mulsupcon_tf.reporting.sentences import neighbour_sentence
from mulsupcon_tf.reporting.thumbnails import SIDE, thumbnail

EXAMPLES_PER_GROUP = 4
MAX_MAPPED = 800
_TSNE_STEPS = 500
COMPARED = 10  # neighbours of a point of the map
_FEWEST_MAPPED = 30
_DECISION_METRIC = "example_f1"  # as `predict` decides


def gallery_section(inputs: ReportInputs) -> str | None:
    """Random, best and worst test samples, images with their pictures; None where nothing is known of them."""
    test = inputs.dataset.splits["test"]
    known = inputs.classifiers or inputs.recovered is not None or test.distributions is not None
    if not known:
        return None
    image = inputs.dataset.kind == "image"
    errors, order = example_errors(inputs)
    groups = choose_examples(errors)
    titles = {"random": "Drawn at random", "best": f"Best: {order} lowest", "worst": f"Worst: {order} highest"}
    parts = [_legend(inputs)]
    for name, rows in groups.items():
        cards = [_example(inputs, test, int(row), order, errors[row]) for row in rows]
        parts += [
            f"<h3>{page.escape(titles[name])}</h3>",
            page.block("examples" if image else "examples narrow", cards),
        ]
    return page.section("gallery", "Test images" if image else "Test samples", parts)


def _legend(inputs: ReportInputs) -> str:
    entries = []
    if inputs.classifiers:
        entries += [
            page.swatch("dark", "probability, label present"),
            page.swatch("hatched", "probability, label absent"),
            page.swatch("dotted", "threshold for example-F1"),
        ]
    if inputs.dataset.splits["test"].distributions is not None:
        entries.append(page.swatch("orange", "true share"))
    if inputs.recovered is not None:
        entries.append(page.swatch("blue", "share recovered in pretraining (d)"))
    text = "Each card shows a test sample, its labels and, as bars, what the runs make of it"
    text += f"; the probabilities are those of {inputs.classifiers[0].title}." if inputs.classifiers else "."
    return page.paragraph(text, "note") + page.block("legend", entries)


def example_errors(inputs: ReportInputs) -> tuple[np.ndarray, str]:
    """How wrong the runs are on each test sample, `[N]`, and the name of that error; NaN for samples not to be ranked.

    Where distributions were recovered and the truth is known: KL(truth ‖ d) over all labels, on samples with at least two
    labels (with one label there is nothing to divide). Else the binary cross-entropy of the predicted probabilities.
    """
    test = inputs.dataset.splits["test"]
    errors = np.full(len(test), np.nan)
    if inputs.recovered is not None and test.distributions is not None:
        for row in np.flatnonzero(test.labels.sum(axis=1) >= 2):
            errors[row] = kl_divergence(test.distributions[row : row + 1], inputs.recovered[row : row + 1])
        return errors, "KL(truth ‖ d)"
    if inputs.classifiers:
        p = inputs.classifiers[0].outputs["probabilities"].astype(np.float64).clip(KL_FLOOR, 1 - KL_FLOOR)
        return -np.where(test.labels > 0, np.log(p), np.log(1 - p)).mean(axis=1), "binary cross-entropy"
    return errors, "error"


def choose_examples(errors: np.ndarray) -> dict[str, np.ndarray]:
    """Rows to show: "random", and where errors are known "best" and "worst", worst first; always the same for one input."""
    ranked = np.argsort(errors, kind="stable")[: np.count_nonzero(~np.isnan(errors))]
    rng = np.random.default_rng(0)
    groups = {"random": rng.choice(len(errors), min(EXAMPLES_PER_GROUP, len(errors)), replace=False)}
    if len(ranked):
        groups |= {"best": ranked[:EXAMPLES_PER_GROUP], "worst": ranked[::-1][:EXAMPLES_PER_GROUP]}
    return groups


def _example(inputs: ReportInputs, test: Split, row: int, order: str, error: float) -> str:
    names = inputs.dataset.label_names
    run = inputs.classifiers[0] if inputs.classifiers else None
    labels = test.labels[row].astype(bool)
    words = ", ".join(name for name, here in zip(names, labels, strict=True) if here) or "no label"
    image = inputs.dataset.kind == "image"
    what = sample_name(test, row)
    caption = f"{what}: {words}." + ("" if np.isnan(error) else f" {order[0].upper()}{order[1:]} = {error:.3f}.")
    bars = figures.example_bars(
        names,
        labels,
        probabilities=run.outputs["probabilities"][row] if run else None,
        threshold=run.summary["thresholds"][_DECISION_METRIC] if run else None,
        truth=None if test.distributions is None else test.distributions[row],
        recovered=None if inputs.recovered is None else inputs.recovered[row],
    )
    picture = page.image(bars, f"Bars of {what[0].lower()}{what[1:]}")
    if not image:
        return page.figure(picture, caption, "example bars")
    scene = scene_of(test, row, f"{what} with the labels {words}")
    return page.figure(scene + picture, caption, "example" if scene else "example bars")


def sample_name(test: Split, row: int) -> str:
    """What a test sample is called on the page: its row, and of an image file its name below the data's folder."""
    if isinstance(test.inputs, ImageFiles):
        return f"Test image {row} ({test.inputs[[row]].names[0]})"
    return f"Test {'sample' if test.inputs.ndim == 2 else 'image'} {row}"


def scene_of(split: Split, row: int, description: str) -> str:
    """One image as HTML, small ones pixel by pixel, photographs smoothed; nothing for a file that Pillow cannot read."""
    pixels = pixels_of(split, row)
    if pixels is None:
        return ""
    return page.image(
        figures.scene_png(pixels), description, "scene" if max(pixels.shape[:2]) < SIDE // 2 else "scene photo"
    )


def pixels_of(split: Split, row: int) -> np.ndarray | None:
    """One image `[H, W, 1 or 3]` uint8; of a file its `thumbnail`, or None where there is none."""
    if not isinstance(split.inputs, ImageFiles):
        return split.inputs[row]
    photo = thumbnail(split.inputs.paths[row])
    return None if photo is None else np.asarray(photo)


def map_section(inputs: ReportInputs) -> str | None:
    """Maps of the test samples in the space of the pretraining (or fine-tuning) and of BCE only; None for too few."""
    test = inputs.dataset.splits["test"]
    rows = np.flatnonzero(test.labels.any(axis=1))
    if len(rows) < _FEWEST_MAPPED:
        return None
    colours = colour_labels(test, inputs.dataset.splits["train"].labels)
    shares = np.bincount(colours[rows]) / len(rows)
    by = "dominant label" if test.distributions is not None else "rarest label"
    maps = []
    for run in [run for run in (inputs.pretrain or inputs.finetune, inputs.bce) if run]:
        where = "contrastive embedding" if run.role == "pretrain" else "representation below the linear layer"
        vectors = unit_rows(run.outputs["embedding"][rows])
        share = neighbour_share(vectors, colours[rows])
        png = figures.embedding_map(*_project(vectors, colours[rows]), inputs.dataset.label_names)
        caption = neighbour_sentence(f"{run.title}, {where}", share, float((shares**2).sum()), by)
        maps.append(page.figure(page.image(png, f"Map of the test samples, {run.title}"), caption))
    intro = (
        f"Each point is a test sample, placed by t-SNE on its unit-norm vector, coloured and shaped by its {by}"
        + (" (largest true share)." if test.distributions is not None else ".")
        + (f" {MAX_MAPPED} of {len(rows)} samples are drawn." if len(rows) > MAX_MAPPED else "")
    )
    return page.section("map", "Map of the embedding", [page.paragraph(intro, "note"), page.block("plots large", maps)])


def colour_labels(split: Split, train_labels: np.ndarray) -> np.ndarray:
    """Column of the label that colours a sample, `[N]`: the largest true share, else its rarest label in train.

    Its most frequent label would paint nearly all samples alike: in most collections one label is almost everywhere.
    """
    if split.distributions is not None:
        return split.distributions.argmax(axis=1)
    return np.where(split.labels > 0, train_labels.mean(axis=0), 2.0).argmin(axis=1)


def neighbour_share(vectors: np.ndarray, groups: np.ndarray) -> float:
    """Mean share of the 10 nearest other rows, by cosine, that have the row's own group.

    Args:
        vectors: `[M, D]`.
        groups: `[M]` ints.
    """
    nearest = nearest_rows(vectors, np.arange(len(vectors)), COMPARED)
    return float((groups[nearest] == groups[:, None]).mean())


def _project(vectors: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions `[M, 2]` of a fixed draw of at most 800 rows, and their groups."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    drawn = np.random.default_rng(0).permutation(len(vectors))[:MAX_MAPPED]
    # Perplexity must stay below the number of points; PCA start and a fixed seed make the map repeatable.
    tsne = TSNE(perplexity=min(30.0, (len(drawn) - 1) / 3), init="pca", random_state=0, max_iter=_TSNE_STEPS)
    # On so few points threads only wait for each other: on a busy machine one was measured to be many times faster.
    with threadpool_limits(1):
        return tsne.fit_transform(vectors[drawn]), groups[drawn]
