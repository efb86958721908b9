"""What a run begins with that an earlier one has left: the encoder of a pretraining, or all weights of a run of its own phase."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

import keras

from mulsupcon_tf.commands.finished_run import encoder_standardisation, load_classifier, load_pretrainer
from mulsupcon_tf.commands.frozen_backbone import FrozenBackbone, trained_part
from mulsupcon_tf.config.common_flags import TrainingConfig, number_of
from mulsupcon_tf.config.fields import from_flag_values
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.input_pipeline.batches import model_input_shape
from mulsupcon_tf.models.backbone_weights import Standardisation, load_weights, standardisation_of
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.models.pretrainer import ContrastivePretrainer
from mulsupcon_tf.training.checkpoints import TrainingState
from mulsupcon_tf.training.data_changes import other_names, require_data_of
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.utils.choices import UNSUPERVISED_METHODS
from mulsupcon_tf.utils.errors import InputError

# Parts of a pretrainer; those of two runs agree in shape, or the new one begins with its own.
_PARTS = (
    "backbone",
    "projection_head",
    "key_backbone",
    "key_projection_head",
    "distribution_layer",
    "classification_layer",
    "queue",
)


@dataclasses.dataclass(frozen=True)
class EarlierRun:
    """The run that `--init_from` or else `--pretrained` names.

    Attributes:
        setting: the flag that names it.
        run: its directory.
        reports: whether what is begun with is logged.
    """

    setting: str
    run: RunDirectory
    reports: bool

    @classmethod
    def of(cls, config: TrainingConfig, *, is_chief: bool) -> "EarlierRun | None":
        """That of a config; None where it names none.

        Args:
            config: settings.
            is_chief: whether this is the worker that reports.
        """
        for setting in ("init_from", "pretrained"):
            path = getattr(config, setting, None)
            if path:
                return cls(f"--{setting}", RunDirectory(path), is_chief)
        return None

    @property
    def continues(self) -> bool:
        """Whether all weights are taken, not those of the encoder alone."""
        return self.setting == "--init_from"

    @property
    def method(self) -> str:
        """Contrastive method of the pretraining that it is or comes from, or "bce"."""
        return self.run.read_summary()["method"]

    def entries(self) -> dict[str, Any]:
        """What `summary.json` of this run notes of it.

        The epochs that its weights had been trained for, if all are taken, else the hash of its encoder; and fingerprints of the
        data whose validation split these weights have learnt, be it in a run before that one.
        """
        summary, entries = self.run.read_summary(), {}
        if self.continues:
            entries["epochs_before"] = summary["epochs"] + summary.get("epochs_before", 0)
        elif "encoder_sha256" in summary:  # not of the first versions
            entries["pretrained_sha256"] = summary["encoder_sha256"]
        learnt = set(summary.get("validation_learnt", ()))
        if self._learns_validation and "data_fingerprint" in summary:
            learnt.add(summary["data_fingerprint"])
        return entries | ({"validation_learnt": sorted(learnt)} if learnt else {})

    @property
    def _learns_validation(self) -> bool:
        """Whether it was trained on the labels of its validation split; a pretraining without labels has seen samples alone."""
        summary = self.run.read_summary()
        without_labels = summary["phase"] == "pretrain" and summary["method"] in UNSUPERVISED_METHODS
        return not without_labels and self._trained_on_all

    @property
    def _trained_on_all(self) -> bool:
        return number_of(read_flags(self.run.flags_file), "validation_fraction") == 0

    def check(self, config: TrainingConfig, dataset: MultiLabelDataset, state: TrainingState) -> None:
        """Holds the run against this one; what has changed in the data, if that is allowed, is noted in the state.

        Args:
            config: resolved settings.
            dataset: as it is stored.
            state: of this run.

        Raises:
            InputError: it had another network, samples of another shape, for `--init_from` other labels, or other data; or it
                has learnt the labels of what is validation here.
        """
        summary = self.run.read_summary()
        there = (summary["backbone"], tuple(summary["input_shape"]))
        here = (config.backbone, model_input_shape(dataset, config.image_size))
        # Convolutions take any size of image; a dense layer takes only its own number of features.
        same_input = there[1] == here[1] if dataset.kind == "vector" else there[1][-1:] == here[1][-1:]
        if there[0] != here[0] or not same_input:
            trained = "trained" if self.continues else "pretrained"
            raise InputError(
                f"{self.setting} must have this run's architecture: --backbone={here[0]} on samples of shape {here[1]}. "
                f"Received: {self.run.path} with --backbone={there[0]} on {there[1]}, {trained} on {summary['dataset']}"
            )
        others = other_names(summary["label_names"], list(dataset.label_names)) if self.continues else ""
        if others:
            raise InputError(f"--init_from must have this run's labels. Received: {self.run.path}; here are {others}")
        since = require_data_of(self.run, dataset, allowed=config.allow_changed_data, data_dir=config.data_dir)
        self._require_validation_unseen(config, dataset, since)
        what = f"{self.run.path} was trained" if self.continues else "the pretraining"
        state.changed_data = "; ".join(filter(None, (state.changed_data, since and f"since {what}: {since}")))

    def _require_validation_unseen(self, config: TrainingConfig, dataset: MultiLabelDataset, since: str) -> None:
        """Refuses a validation split whose labels the run has learnt: what is chosen on it and said of it would be of train.

        Args:
            config: resolved settings of this run.
            dataset: as it is stored.
            since: what has changed in the data since the run.
        """
        if config.validation_fraction == 0:
            return
        summary = self.run.read_summary()
        same = self._trained_on_all and summary["dataset"] == dataset.name
        learnt = dataset.fingerprint() in summary.get("validation_learnt", ())
        if learnt or (same and self._learns_validation and not since):
            what = (
                f"--validation_fraction=0 must be given here too where {self.setting} has learnt the labels of validation: "
                f"nothing is held out. Received: {self.run.path}, trained with --validation_fraction=0, or after a run with it"
            )
            if not RunDirectory(config.workdir).flags_file.exists():
                raise InputError(what)
            self._warn(what)  # an earlier version has begun this run
        elif same and since:
            self._warn(f"{self.run.path} has learnt what was validation in its data: --validation_fraction=0")
        elif same:
            self._warn(f"{self.run.path} has seen the samples of validation, not their labels: --validation_fraction=0")

    def _warn(self, text: str) -> None:
        if self.reports:
            logging.getLogger("mulsupcon_tf").warning("warning: %s", text)

    @functools.cached_property
    def classifier(self) -> MultiLabelClassifier:
        """Of a fine-tuning the model that it has left."""
        return load_classifier(self.run, "--init_from")

    def standardisation(self, config: TrainingConfig, whole: MultiLabelDataset) -> Standardisation | None:
        """What this run standardises vectors by because the other did; None where it takes the statistics of its own data, and of images.

        Args:
            config: resolved settings of this run.
            whole: its data, before a `--label_fraction` of train is drawn.
        """
        if whole.kind != "vector":
            return None
        flags = read_flags(self.run.flags_file)
        if isinstance(config, FinetuneConfig) and self.continues:
            return standardisation_of(trained_part(self.classifier.backbone))
        if not self.continues and flags.get("dataset") != config.dataset:
            return None
        return encoder_standardisation(self.run, self.setting, whole)

    def start_pretrainer(self, model: ContrastivePretrainer, whole: MultiLabelDataset) -> None:
        """Gives a pretrainer the weights of the pretraining, part by part, and says which parts have other shapes.

        Args:
            model: of this run.
            whole: as for `standardisation`.
        """
        settings = from_flag_values(PretrainConfig, read_flags(self.run.flags_file))
        there = load_pretrainer(self.run, settings, whole, self.setting)
        fresh = []
        for name in _PARTS:
            here, other = getattr(model, name, None), getattr(there, name, None)
            if here is None:
                continue
            if other is not None and shapes(here) == shapes(other):
                here.set_weights(other.get_weights())
            else:
                fresh.append(name)
        self._say_start(fresh)

    def start_classifier(self, model: MultiLabelClassifier, config: FinetuneConfig, dataset: MultiLabelDataset) -> None:
        """Gives a classifier the weights of the fine-tuning; or the pretraining's encoder and, with `--head=reuse`, its layer.

        Args:
            model: of this run.
            config: resolved settings of this run.
            dataset: what it is trained on.

        Raises:
            InputError: a file of the run is missing or damaged.
        """
        if self.continues:
            model.backbone.set_weights(trained_part(self.classifier.backbone).get_weights())
            model.head.set_weights(self.classifier.head.get_weights())
            self._say_start([])
            return
        load_pretrained_backbone(model.backbone, self.run)
        if config.head == "reuse":
            head = self.run.read_head()
            if head is not None and self.run.read_summary()["label_names"] == list(dataset.label_names):
                model.head.set_weights(head)

    def _say_start(self, fresh: Sequence[str]) -> None:
        if self.reports:
            but = f", but for {', '.join(fresh)}" if fresh else ""
            logging.getLogger("mulsupcon_tf").info("start: the weights of %s%s", self.run.path, but)


def shapes(part: keras.layers.Layer) -> list[tuple[int, ...]]:
    """Those of its weights."""
    return [tuple(weight.shape) for weight in part.weights]


def load_pretrained_backbone(backbone: keras.Model, pretrained: RunDirectory) -> None:
    """Loads `encoder.weights.h5` into the backbone, which has the architecture of the pretraining's.

    Raises:
        InputError: the file is damaged.
    """
    with pretrained.whole_encoder_weights("--pretrained") as path:
        load_weights(backbone, path)


def open_frozen_backbone(
    config: TrainingConfig,
    run: RunDirectory,
    earlier: EarlierRun | None,
    images: MultiLabelDataset,
    state: TrainingState,
) -> FrozenBackbone:
    """The frozen backbone of a training, of which the state takes note; it is that of this run so far and of the earlier one.

    Raises:
        InputError: see `FrozenBackbone.open`.
    """
    runs = {"--workdir": run} | ({earlier.setting: earlier.run} if earlier else {})
    frozen = FrozenBackbone.open(config, images, runs)
    state.frozen_weights = frozen.weights
    return frozen
