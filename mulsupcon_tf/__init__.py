"""Multi-label supervised contrastive learning with recovered label distributions (MulSupConLD, arXiv 2501.19145).

Names are imported when they are first used, so that `import mulsupcon_tf` and the binaries' `--help` do not wait for
TensorFlow.
"""

from typing import Any

from mulsupcon_tf.utils import keras_registry

__version__ = "0.1.0"

_HOMES = {
    "losses.registry": ("build_method",),
    "losses.method": ("Method", "losses_on_arrays"),
    "losses.mulsupconld": ("CLD", "RLD", "KeysByDistribution"),
    "losses.mulsupcon": ("MulSupCon",),
    "losses.positives": (
        "ContrastOfPositives",
        "OwnKey",
        "all_positives",
        "any_positives",
        "jaccard_positives",
    ),
    "losses.in_batch": ("MultiLabelContrastiveLoss",),
    "losses.label_by_label": ("AsymmetricLoss", "MultiLabelCrossentropy"),
    "losses.positives_against_negatives": ("TwoWayLoss", "ZLPRLoss"),
    "losses.classification": ("balanced_weights", "build_loss"),
    "models.backbones": ("build_backbone",),
    "models.heads": ("build_projection_head",),
    "models.pretrainer": ("ContrastivePretrainer",),
    "models.classifier": ("MultiLabelClassifier",),
    "serving.estimator": ("ContrastiveMultiLabelClassifier",),
    "models.neighbour_classifier": ("NeighbourClassifier",),
    "optimizers.adamw": ("KernelAdamW",),
    "optimizers.sgd": ("LARS", "KernelSGD"),
    "optimizers.registry": ("build_optimizer",),
    "optimizers.schedules": ("MomentumRamp", "warmup_cosine"),
    "evaluation.keras_average_precision": ("MeanAveragePrecision",),
    "evaluation.keras_metrics": (
        "ExampleF1Score",
        "HammingAccuracy",
        "MacroF1Score",
        "MicroF1Score",
        "PrecisionAtOne",
    ),
    "evaluation.results": ("evaluate_splits",),
    "evaluation.thresholds": ("choose_thresholds",),
    "evaluation.retrieval": ("evaluate_embeddings",),
    "datasets.registry": ("load_dataset",),
    "input_pipeline.batches": ("evaluation_batches", "training_batches"),
    "utils.errors": ("InputError",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604 (a list of strings, computed)

keras_registry.register()


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mulsupcon_tf' has no attribute {name!r}")
    return keras_registry.imported(_HOME_OF[name], name)


def __dir__() -> list[str]:
    return __all__
