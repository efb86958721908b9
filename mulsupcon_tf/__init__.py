"""Multi-label supervised contrastive learning with recovered label distributions (MulSupConLD, arXiv 2501.19145).

Names are imported when they are first used, so that `import mulsupcon_tf` and the binaries' `--help` do not wait for
TensorFlow.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "losses": ("MultiLabelContrastiveLoss", "supervised_contrastive_loss", "uniform_label_weights", "weighted_contrastive_loss"),
    "label_distribution": (
        "DistributionHead", "alignment_loss", "contrastive_similarity_loss", "label_weights", "rbf_similarity_loss",
    ),
    "encoder": ("build_backbone", "build_projection_head"),
    "pretrainer": ("ContrastivePretrainer",),
    "classifier": ("MultiLabelClassifier",),
    "optimization": ("LARS", "SGD", "AdamW", "MomentumRamp", "build_optimizer", "warmup_cosine"),
    "keras_metrics": ("ExampleF1", "HammingAccuracy", "MacroF1", "MeanAveragePrecision", "MicroF1", "PrecisionAtOne"),
    "evaluation": ("choose_thresholds", "evaluate_splits"),
    "retrieval": ("judge_retrieval",),
    "datasets.registry": ("load_dataset",),
    "input_pipeline": ("evaluation_batches", "training_batches"),
    "errors": ("InputError",),
}  # fmt: skip
_ON_TENSORFLOW = (
    "encoder",
    "pretrainer",
    "classifier",
    "optimization",
)  # the others run on any backend of Keras, or none
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604 (a list of strings, computed)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mulsupcon_tf' has no attribute {name!r}")
    if _HOME_OF[name] in _ON_TENSORFLOW:
        importlib.import_module("mulsupcon_tf.keras_settings").require_tensorflow()
    return getattr(importlib.import_module(f"mulsupcon_tf.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
