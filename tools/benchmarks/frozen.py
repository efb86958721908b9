"""Section frozen: an epoch on the features of a frozen network, an epoch of the whole network, and the features, in turn.

EfficientNet-Lite0 with ImageNet weights at 128 pixels, by whole runs of `finetune` on JPEGs of COCO's size: samples/s of
the steps, without the compilation, and seconds of an epoch of that pace.
"""

import json
import pathlib
import shutil
import time
from collections.abc import Iterator

from mulsupcon_tf.config.command_line import import_tensorflow_quietly
from tools.benchmarks.images import write_dataset
from tools.benchmarks.measurement import Measurement, in_turn, ratios

SECTION = "frozen"
NETWORK = {"backbone": "efficientnet-lite0", "backbone_weights": "imagenet"}
WHOLE, FROZEN, FEATURES = "the whole network", "a network on its features", "its features"


def measure(settings, image_size: int = 128, whole_steps: int = 6, epochs: int = 30) -> Iterator[Measurement]:
    """Samples/s of the three, and how many times as long an epoch of the whole network takes."""
    import_tensorflow_quietly()
    from mulsupcon_tf.commands.feature_extraction import Extractor
    from mulsupcon_tf.commands.finetuning import finetune
    from mulsupcon_tf.config.flags import FinetuneConfig
    from mulsupcon_tf.datasets.registry import load_dataset

    folder = pathlib.Path(settings.workdir)
    data_dir = write_dataset(folder)
    common = {"dataset": "csv", "data_dir": str(data_dir), "image_size": image_size, "batch_size": 64, **NETWORK}
    dataset = load_dataset("csv", str(data_dir))
    extractor = Extractor.build(NETWORK["backbone"], NETWORK["backbone_weights"], dataset, image_size)

    def pace(**flags) -> float:
        shutil.rmtree(folder / "run", ignore_errors=True)
        finetune(FinetuneConfig(workdir=str(folder / "run"), **common, **flags))
        return json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))["samples_per_second"]

    def pace_of_features() -> float:
        split = dataset.splits["train"]
        start = time.perf_counter()
        count = sum(len(block) for block in extractor.blocks(split, "train"))
        return count / (time.perf_counter() - start)

    paces = in_turn(
        {
            WHOLE: lambda: pace(freeze_backbone=False, max_steps=whole_steps),
            FROZEN: lambda: pace(freeze_backbone=True, feature_cache=str(folder / "features"), epochs=epochs),
            FEATURES: pace_of_features,
        },
        settings.repeats,
    )
    for name, values in paces.items():
        yield Measurement(SECTION, name, "samples/s", values, f"{image_size} px, batch 64")
    yield Measurement(
        SECTION, "an epoch of the whole network, over one on features", "x", ratios(paces[FROZEN], paces[WHOLE])
    )
