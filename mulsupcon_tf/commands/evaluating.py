"""What `evaluate` does: judges a finished run on a split, as a classifier or as a search engine."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mulsupcon_tf.commands.finished_run import (
    FinishedRun,
    dataset_of_run,
    finetuning_flags,
    load_classifier,
    open_run,
)
from mulsupcon_tf.commands.outputs import judge, predict_split
from mulsupcon_tf.config.common_flags import image_size_of
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.program_flags import DEFAULT_GALLERY, DEFAULT_SPLIT, DEFAULT_THRESHOLD, EvaluateConfig
from mulsupcon_tf.datasets.checking import require_known_labels
from mulsupcon_tf.evaluation.resampling import Chance
from mulsupcon_tf.evaluation.retrieval import evaluate_embeddings, judge_one_list
from mulsupcon_tf.evaluation.thresholds import parse_threshold
from mulsupcon_tf.models.backbone_weights import Standardisation
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.choices import SEARCHED_NEIGHBOURS
from mulsupcon_tf.utils.errors import InputError

CONTROL_WIDTH = 64
CONTROL_DRAWS, CONTROL_PAIRS = (3, 20), 2e7  # fewer of large splits, for whose pairs there is no time
_REPRESENTATIONS = {"pretrain": ("embedding", "features", "raw"), "finetune": ("features", "probabilities", "raw")}

Results = dict[str, Any]


def evaluate_run(config: EvaluateConfig, tell: Callable[[Results], None] = lambda results: None) -> Results:
    """Judges the model of a finished fine-tuning on one split; thresholds still come from validation.

    Args:
        config: settings.
        tell: is given what is returned before it is written to `--output`.

    Returns:
        As of `evaluation.results.evaluate_splits`, and "changed_data" where the data are not those of the run.

    Raises:
        InputError: the run directory, the data or a setting is wrong.
        OSError: `--output` cannot be written, which is tried before anything is predicted.
    """
    require(config, "workdir")
    threshold = DEFAULT_THRESHOLD if config.threshold is None else config.threshold
    parse_threshold(threshold)
    if threshold == "paper" and config.split != "test":
        raise InputError(
            "--threshold=paper is the best on test and needs --split=test; other splits take another. "
            f"Received: --split={config.split}"
        )
    run = RunDirectory(config.workdir)
    flags = finetuning_flags(run)
    validated = "validation_fraction" not in flags
    if not validated and threshold in ("validation", "per_label"):
        raise InputError(
            "a run that kept no validation apart needs --threshold=paper or a number. "
            f"Received: --threshold={threshold} for {run.path}"
        )
    data_dir = config.data_dir or flags.get("data_dir")
    dataset, changed = dataset_of_run(run, flags, data_dir, allow_changed_data=config.allow_changed_data)
    output = pathlib.Path(config.output) if config.output else None
    if output:
        _require_output(output, run)
    names = ("validation", config.split) if validated and config.split != "validation" else (config.split,)
    image_size = image_size_of(flags)
    model = load_classifier(run)
    outputs = {name: predict_split(model, dataset.splits[name], image_size) for name in names}
    # What it learnt from tells head from tail; the whole of train in runs of version 0.1.0, which did not store it.
    frequencies = run.read_summary().get("label_frequencies", dataset.splits["train"].frequencies)
    results = judge(dataset, outputs, threshold, train_frequencies=np.asarray(frequencies))
    if changed:
        results["changed_data"] = changed
    try:
        tell(results)
    finally:  # whoever reads may have gone
        if output:
            write_judgement(output, results)
    return results


def evaluate_retrieval(config: EvaluateConfig, tell: Callable[[Results], None] = lambda results: None) -> Results:
    """Judges the embedding of a finished run: searches the gallery for the nearest samples of each query.

    Args:
        config: settings.
        tell: is given what is returned before it is written.

    Returns:
        What is written to `--output`, by default `WORKDIR/retrieval.json`: {"split", "gallery", "neighbours",
        "representation", "truth": whether true distributions were known, "results": `evaluate_embeddings` of the run, and
        "control": that of random embeddings, the mean of 3 to 20 draws with their "deviation", and "one_list": that of
        one list for all queries, which tell what the data give away for nothing}, and "changed_data" where the data are
        not those that the run saw.

    Raises:
        InputError: the run, the data or a setting is wrong.
        OSError: the file cannot be written, which is tried before anything is encoded.
    """
    require(config, "workdir")
    run = open_run(config.workdir, config.data_dir, allow_changed_data=config.allow_changed_data)
    representation = config.representation or _REPRESENTATIONS[run.phase][0]
    if representation not in _REPRESENTATIONS[run.phase]:
        raise InputError(
            f"--representation must be one of {', '.join(_REPRESENTATIONS[run.phase])} for a {run.phase} run. "
            f"Received: --representation={representation} for {config.workdir}"
        )
    if representation == "probabilities" and run.dataset.num_labels == 1:
        raise InputError(
            "--representation=probabilities needs several labels: of one all cosines are 1. "
            f"Received: {config.workdir}, of {run.dataset.label_names[0]!r} alone"
        )
    directory = RunDirectory(config.workdir)
    output = pathlib.Path(config.output) if config.output else directory.retrieval
    _require_output(output, directory)
    judged = judge_search(
        run,
        representation,
        split=config.split,
        gallery=config.gallery or DEFAULT_GALLERY,
        num_neighbours=config.neighbours or SEARCHED_NEIGHBOURS,
    )
    try:
        tell(judged)
    finally:
        write_judgement(output, judged)
    return judged


def _require_output(output: pathlib.Path, run: RunDirectory) -> None:
    """Raises `InputError` for a file that the run itself is made of, which would be lost; `OSError` where none can be written."""
    others = (run.path, run.retrieval)
    own = {path.resolve() for path in vars(run).values() if isinstance(path, pathlib.Path) and path not in others}
    if output.resolve() in own:
        raise InputError(f"--output must not be a file that the run is made of. Received: --output={output}")
    atomic_file.require_writable(output)


def judge_search(
    run: FinishedRun,
    representation: str,
    *,
    split: str = DEFAULT_SPLIT,
    gallery: str = DEFAULT_GALLERY,
    num_neighbours: int = SEARCHED_NEIGHBOURS,
) -> dict[str, Any]:
    """What `evaluate_retrieval` returns, of a run that is open.

    Args:
        run: the run.
        representation: one that it has.
        split: name of the split that asks.
        gallery: name of the split that is searched.
        num_neighbours: k.
    """
    require_known_labels(run.dataset, "--retrieval")
    names = (split, gallery)
    encoded = {name: _represented(run, representation, name) for name in dict.fromkeys(names)}
    asking, searched = (run.dataset.splits[name] for name in names)
    settings: dict[str, Any] = {"num_neighbours": num_neighbours, "same": split == gallery}
    judged = {
        "split": split,
        "gallery": gallery,
        "neighbours": num_neighbours,
        "representation": representation,
        "truth": asking.distributions is not None and searched.distributions is not None,
    }
    if run.changed_data:
        judged["changed_data"] = run.changed_data
    judged["results"] = evaluate_embeddings(encoded[split], encoded[gallery], asking, searched, **settings)
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(int(np.clip(CONTROL_PAIRS / (len(asking) * len(searched)), *CONTROL_DRAWS))):
        noise = {name: rng.normal(size=(len(rows), CONTROL_WIDTH)).astype(np.float32) for name, rows in encoded.items()}
        draws.append(evaluate_embeddings(noise[split], noise[gallery], asking, searched, **settings))
    judged["control"] = {name: _mean_of([draw[name] for draw in draws]) for name in draws[0]}
    judged["one_list"] = judge_one_list(asking, searched, **settings)
    return judged


def _mean_of(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """A measure of random embeddings: the mean of its draws, and their standard deviation."""
    values = [draw["value"] for draw in draws]
    if None in values:
        return draws[0] | {"deviation": None, "draws": len(draws)}
    return draws[0] | {
        "value": float(np.mean(values)),
        "deviation": float(np.std(values, ddof=1)),
        "draws": len(draws),
    }


def write_judgement(path: pathlib.Path, judged: Results) -> None:
    """Writes what `evaluate_run` or `judge_search` found, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write_text(path, json.dumps(judged, indent=2) + "\n")


def _represented(run: FinishedRun, representation: str, split: str) -> np.ndarray:
    """What stands for the samples of a split `[N, ...]` when they are searched."""
    if representation != "raw":
        return run.outputs(split)[representation]
    if run.dataset.train_features is None:
        raise InputError(
            f"--representation=raw needs a dataset of vectors. Received: --dataset={run.dataset.name}, which has images"
        )
    mean, variance = Standardisation.of(run.dataset.train_features)
    return (run.dataset.splits[split].inputs - mean) / np.sqrt(variance)


def format_retrieval_table(judged: dict[str, Any]) -> str:
    """The measures in percent, one a line, for the terminal.

    Args:
        judged: as `evaluate_retrieval` returns it.

    Returns:
        Lines without a trailing newline.
    """
    k = judged["neighbours"]
    titles = {
        "mAP": f"mAP@{k} (shared labels)",
        "ndcg_labels": f"nDCG@{k} of labels",
        "dominant": f"dominant@{k}",
        "ndcg_distributions": f"nDCG@{k} of true distributions",
    }
    lines = [f"{'retrieval (%)':<32}{'run':>7}{'random':>14}{'one list':>10}{'queries':>9}"]
    covered, beaten = [], []
    for name, title in titles.items():
        result, control, one_list = (judged[what][name] for what in ("results", "control", "one_list"))
        cells = [
            f"{100 * each['value']:.1f}" if each["value"] is not None else "-" for each in (result, control, one_list)
        ]
        if control.get("deviation") is not None:
            cells[1] += f" ± {100 * control['deviation']:.1f}"
            if Chance(control["value"], control["deviation"]).covers(result["value"]):
                covered.append(title)
        if one_list["value"] is not None and one_list["value"] >= result["value"]:
            beaten.append(title)
        lines.append(f"{title:<32}{cells[0]:>7}{cells[1]:>14}{cells[2]:>10}{result['queries']:>9}")
    if covered:
        lines.append(f"cannot be distinguished from random embeddings: {', '.join(covered)}")
    if beaten:
        lines.append(f"no better than one list for all queries, so it says nothing here: {', '.join(beaten)}")
    lines.append(f"queries: {judged['split']}, gallery: {judged['gallery']}, by cosine of {judged['representation']}")
    if not judged["truth"]:
        lines.append(f"true distributions are not known: dominant@{k} is over the samples that have one label")
    if "changed_data" in judged:
        lines.append(f"the data have changed since the run: {judged['changed_data']}")
    return "\n".join(lines)
