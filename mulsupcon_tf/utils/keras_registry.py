"""Lets Keras read files with classes of this package that nobody has imported yet, at no cost before it does.

`keras.models.load_model` looks a class up by the name under which it was registered, which the class does when it is imported.
Until then a stand-in is registered here under that name: it imports the class when a file asks for it.

Importing this module imports neither Keras nor TensorFlow.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from typing import Any

PACKAGE = "mulsupcon_tf"
# The classes that register themselves, by module.
REGISTERED = {
    "evaluation.keras_average_precision": ("MeanAveragePrecision",),
    "evaluation.keras_metrics": (
        "ExampleF1Score",
        "HammingAccuracy",
        "MacroF1Score",
        "MicroF1Score",
        "PrecisionAtOne",
    ),
    "losses.in_batch": ("MultiLabelContrastiveLoss",),
    "losses.label_by_label": ("AsymmetricLoss", "MultiLabelCrossentropy"),
    "losses.mulsupcon": ("MulSupCon",),
    "losses.mulsupconld": ("CLD", "RLD", "KeysByDistribution"),
    "losses.positives": ("ContrastOfPositives", "OwnKey"),
    "losses.positives_against_negatives": ("TwoWayLoss", "ZLPRLoss"),
    "models.classifier": ("MultiLabelClassifier",),
    "models.key_queue": ("KeyQueue",),
    "models.layers": ("BatchNormalization", "Conv2D", "Dropout"),
    "models.neighbour_classifier": ("NeighbourClassifier",),
    "models.pretrainer": ("ContrastivePretrainer",),
    "optimizers.adamw": ("KernelAdamW",),
    "optimizers.schedules": ("MomentumRamp", "StepSchedule", "WarmupCosine"),
    "optimizers.sgd": ("KernelSGD", "LARS"),
}
_ON_TENSORFLOW = ("models.", "optimizers.", "serving.", "training.")  # the others run on any backend of Keras, or none


def imported(module: str, name: str) -> Any:
    """The class or function `name` of a module of the package, which is imported where it is not yet.

    Raises:
        InputError: it needs TensorFlow, and Keras runs on another backend.
    """
    if module.startswith(_ON_TENSORFLOW):
        importlib.import_module(f"{PACKAGE}.utils.keras_settings").require_tensorflow()
    return getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)


class StandIn:
    """What Keras finds under the name of a class that is not imported yet.

    Args:
        module: of the class, within the package.
        name: of the class.
    """

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def from_config(self, config: dict) -> Any:
        """What the class makes of its settings. It registers itself in place of this when it is imported."""
        return imported(self.module, self.name).from_config(config)


class _WhenKerasIsImported(importlib.abc.MetaPathFinder):
    """Registers the stand-ins at the end of the first import of Keras."""

    def find_spec(self, name, path, target=None):
        del path, target
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                _register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register() -> None:
    import keras

    known = keras.saving.get_custom_objects()
    for module, names in REGISTERED.items():
        for name in names:
            known.setdefault(f"{PACKAGE}>{name}", StandIn(module, name))


def register() -> None:
    """Registers a stand-in for each class of the package, now if Keras is imported, else when it will be."""
    if hasattr(sys.modules.get("keras"), "saving"):
        _register()
    else:
        sys.meta_path.insert(0, _WhenKerasIsImported())
