r"""Embeddings by the model of a finished run, or features by a pretrained network, with labels and file names, as NPZ.

A split by the model of a finished run, in one file:
  python -m mulsupcon_tf.embed --workdir=runs/digits --split=test --output=digits_test.npz
All splits by a pretrained network, in a folder that `--dataset=npz --data_dir=DIR` reads:
  python -m mulsupcon_tf.embed --backbone=efficientnet-lite0 --backbone_weights=imagenet --dataset=csv \
      --data_dir=photos --image_size=160 --output=features
"""

import shlex
from collections.abc import Mapping

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.program_flags import DEFAULT_SPLIT, EmbedConfig
from mulsupcon_tf.utils.errors import InputError


def main(config: EmbedConfig) -> None:
    """Encodes, writes, and prints what the file holds."""
    if config.workdir is None and config.backbone is None:
        raise InputError("--workdir, a finished run, is required, or --backbone, a network. Received: none")
    require(config, "output")
    if config.workdir is None:
        require(config, "dataset", "backbone_weights")
    import_tensorflow_quietly()
    from mulsupcon_tf.commands import embedding

    if config.workdir is None:
        for split, shapes in embedding.write_features(config).items():
            _say_written(split, f"{config.output}/{split}.npz", shapes)
        words = ["--dataset=npz", f"--data_dir={config.output}", "--workdir=NEW"]
        print(f"next: python -m mulsupcon_tf.finetune {shlex.join(words)}")
        return
    arrays = embedding.export_embeddings(config)
    shapes = {name: array.shape for name, array in arrays.items() if array.ndim}
    _say_written(config.split or DEFAULT_SPLIT, config.output, shapes)


def _say_written(split: str, path: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    listed = ", ".join(f"{name} [{', '.join(map(str, shape))}]" for name, shape in shapes.items())
    print(f"{split} written to {path}: {listed}")


def run() -> None:
    """Entry point of the console script."""
    run_binary(EmbedConfig, main, usage=__doc__)


if __name__ == "__main__":
    run()
