"""What a report is made from: up to three finished run directories on one dataset, read and checked against each other."""

import dataclasses
import math
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from mulsupcon_tf.config.common_flags import reading_options_of
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.datasets.checking import require_known_labels
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.evaluation.distribution_distances import kl_divergence
from mulsupcon_tf.evaluation.metrics import mean_average_precision
from mulsupcon_tf.training.data_changes import require_data_of, require_labels_of
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.training.stored import RETRIEVAL, read_object
from mulsupcon_tf.utils.choices import DEFAULT_LOSS, DISTRIBUTION_METHODS, LOSSES
from mulsupcon_tf.utils.errors import InputError

METHOD_TITLES = {
    "cld": "CLD",
    "rld": "RLD",
    "mulsupcon": "MulSupCon",
    "any": "SupCon any",
    "all": "SupCon all",
    "jaccard": "Jaccard",
    "self": "MoCo",
    "truth": "Truth",
    "bce": "BCE only",
}
_EXPECTED_OUTPUTS = {"pretrain": ("features", "embedding"), "finetune": ("probabilities", "embedding")}


@dataclasses.dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        path: its directory.
        summary: content of `summary.json`.
        flags: content of `flags.txt`, text by name.
        epochs: the lines of `metrics.jsonl`.
        outputs: arrays of `test_outputs.npz`, N rows each; a pretraining has "features" `[N, R]`, "embedding" `[N, D]`
            and, if it learnt distributions, "distribution" `[N, C]`, a fine-tuning "probabilities" `[N, C]` and
            "embedding" `[N, R]`.
        retrieval: content of `retrieval.json`, which `evaluate --retrieval` writes, or None.
    """

    path: pathlib.Path
    summary: dict[str, Any]
    flags: dict[str, str]
    epochs: list[dict[str, Any]]
    outputs: dict[str, np.ndarray]
    retrieval: dict[str, Any] | None = None

    @property
    def role(self) -> str:
        """Which part it plays: "pretrain", "finetune", or "bce", a classifier that was not pretrained."""
        return "bce" if self.summary["method"] == "bce" else self.summary["phase"]

    @property
    def method_title(self) -> str:
        """The method in words, and that nothing but its name had a part in the pretraining, where that is so."""
        method = METHOD_TITLES.get(self.summary["method"], self.summary["method"])
        return method if self.summary.get("contrastive_steps") != 0 else f"{method} (its loss never joined)"

    @property
    def title(self) -> str:
        """How the run is called in headings of columns."""
        method = self.method_title
        if self.role == "pretrain":
            return f"{method} pretraining"
        other = "" if self.flags.get("loss", DEFAULT_LOSS) == DEFAULT_LOSS else f", {self.loss_title}"
        if self.role == "bce":
            return f"no pretraining{other}" if other else method
        phase = "linear probe" if self.flags.get("linear_probe") == "true" else "fine-tuning"
        return f"{method} + {phase}{other}"

    @property
    def loss_title(self) -> str:
        """The loss of a classifier in words."""
        name = self.flags.get("loss", DEFAULT_LOSS)
        return LOSSES.get(name, name)


@dataclasses.dataclass(frozen=True)
class ReportInputs:
    """The runs of a report and the data they saw.

    Attributes:
        dataset: loaded again, for pictures, labels and truth; without the images that the runs left out as unreadable.
        pretrain: the pretraining, or None.
        finetune: the classifier trained from it, or None.
        bce: the baseline that was not pretrained, or None.
        changed_data: what is different from the data that a run saw, in words; "" if nothing.
    """

    dataset: MultiLabelDataset
    pretrain: Run | None = None
    finetune: Run | None = None
    bce: Run | None = None
    changed_data: str = ""

    @property
    def runs(self) -> list[Run]:
        """Those that are there, pretraining first."""
        return [run for run in (self.pretrain, self.finetune, self.bce) if run]

    @property
    def classifiers(self) -> list[Run]:
        """Those that have the six metrics."""
        return [run for run in (self.finetune, self.bce) if run]

    @property
    def recovered(self) -> np.ndarray | None:
        """Distributions d `[N, C]` that the pretraining recovered for the test split, or None."""
        return self.pretrain.outputs.get("distribution") if self.pretrain else None

    @property
    def recovery(self) -> dict[str, dict[str, Any]] | None:
        """Recovered distributions and controls held against the truth, as in `summary.json`, or None."""
        return self.pretrain.summary.get("recovery") if self.pretrain else None

    @property
    def budgets(self) -> tuple[int, int] | None:
        """Passes over train of the pretrained classifier, both phases together, and of the baseline."""
        if not (self.pretrain and self.finetune and self.bce):
            return None
        pretrained, finetuned, bce = (
            run.summary["epochs"] + run.summary.get("epochs_before", 0)
            for run in (self.pretrain, self.finetune, self.bce)
        )
        return pretrained + finetuned, bce


def load_inputs(
    workdirs: Sequence[str | pathlib.Path], *, data_dir: str | None = None, allow_changed_data: bool = False
) -> ReportInputs:
    """Reads one to three run directories; `summary.json` tells which is the pretraining, which the baseline.

    Args:
        workdirs: of the runs.
        data_dir: folder of the data, where it is no longer that of the runs.
        allow_changed_data: whether the data may be others than those that the runs saw.

    Raises:
        InputError: a directory is no finished run or lacks a file, two have the same role, or they do not belong
            together: other data, or a fine-tuning of another method than the pretraining's. The data have changed, which
            `allow_changed_data` lets pass as long as there are as many test samples and labels.
    """
    if not workdirs:
        raise InputError("A report needs run directories: report.py WORKDIR... Received: none")
    by_role: dict[str, Run] = {}
    for workdir in workdirs:
        run = read_run(pathlib.Path(workdir))
        if run.role in by_role:
            raise InputError(
                "A report takes one pretraining, one fine-tuning and one BCE-only run. "
                f"Received: {by_role[run.role].path} and {run.path}, both {run.title}"
            )
        by_role[run.role] = run
    first, *others = by_role.values()
    for run in others:
        for key in ("dataset", "label_names"):
            if run.summary[key] != first.summary[key]:
                raise InputError(
                    f"The runs of a report must share one dataset. Received: {first.path} on {first.summary['dataset']} "
                    f"with {len(first.summary['label_names'])} labels, {run.path} on {run.summary['dataset']} "
                    f"with {len(run.summary['label_names'])}"
                )
    if {"pretrain", "finetune"} <= by_role.keys():
        methods = {role: by_role[role].summary["method"] for role in ("pretrain", "finetune")}
        if methods["pretrain"] != methods["finetune"]:
            raise InputError(
                "The fine-tuning must start from the pretraining of the same report. "
                f"Received: a pretraining with {methods['pretrain']}, a fine-tuning from {methods['finetune']}"
            )
    flags = first.flags
    data_dir = data_dir or flags.get("data_dir")
    dataset = load_dataset(flags["dataset"], data_dir=data_dir, **reading_options_of(flags))
    changes = [
        require_data_of(RunDirectory(run.path), dataset, allowed=allow_changed_data, data_dir=data_dir)
        for run in by_role.values()
    ]
    for run in by_role.values():
        require_labels_of(RunDirectory(run.path), dataset)
    listing = RunDirectory(first.path).bad_images
    if listing.exists():
        from mulsupcon_tf.input_pipeline.image_files import without_unreadable  # imports TensorFlow

        dataset = without_unreadable(dataset, listing, data_dir=data_dir, scan=False)
    require_known_labels(dataset, "A report")
    inputs = ReportInputs(dataset, **by_role, changed_data=next(filter(None, changes), ""))
    _check_outputs(inputs)
    return inputs


def read_run(path: pathlib.Path) -> Run:
    """Reads one finished run directory.

    Raises:
        InputError: it is not one.
    """
    directory = RunDirectory(path)
    try:
        summary = directory.read_summary()
        flags, epochs = read_flags(directory.flags_file), directory.epochs()
        with np.load(directory.test_outputs, allow_pickle=False) as file:
            expected = _EXPECTED_OUTPUTS[summary["phase"]]
            learnt = ("distribution",) if summary["method"] in DISTRIBUTION_METHODS and "features" in expected else ()
            outputs = {name: file[name] for name in (*expected, *learnt)}
        retrieval = read_object(directory.retrieval, RETRIEVAL) if directory.retrieval.exists() else None
    except InputError:
        raise
    except FileNotFoundError as error:
        missing = pathlib.Path(str(error.filename)).name
        raise InputError(f"A run directory holds {missing}. Received: {path}, which does not") from error
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"A run directory must hold whole files of this package. Received: {path} ({error!r})"
        ) from error
    return Run(path, summary, flags, epochs, outputs, retrieval)


def _check_outputs(inputs: ReportInputs) -> None:
    """Data that changed since the run would pair its outputs with pictures and labels that it never saw."""
    test = inputs.dataset.splits["test"]
    for run in inputs.runs:
        rows = {len(array) for array in run.outputs.values()}
        if rows != {len(test)} or inputs.dataset.num_labels != len(run.summary["label_names"]):
            raise InputError(
                f"The data must be those of the run. Received: {len(test)} test samples of {inputs.dataset.num_labels} labels, "
                f"while {run.path} saw {max(rows)} of {len(run.summary['label_names'])} labels"
            )
        if inputs.changed_data:
            continue
        if run.role != "pretrain":
            name, then = "mAP on test", run.summary["test"]["mAP"]
            now = mean_average_precision(test.labels, run.outputs["probabilities"])
        elif inputs.recovery and test.distributions is not None:
            name, then = "KL of the recovered distributions", inputs.recovery["recovered"]["kl"]
            now = kl_divergence(test.distributions, run.outputs["distribution"])
        else:
            continue
        if not math.isclose(now, then, abs_tol=1e-6):
            raise InputError(
                f"The data must be those of the run. Received: data on which {run.path} has another {name}, {now:.4f}, "
                f"than its summary.json, {then:.4f}"
            )
