"""Embeddings of a split by the model of a finished run, with labels and file names, in one NPZ file.

python -m mulsupcon_tf.embed --workdir=runs/digits --split=test --output=digits_test.npz
"""

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.program_flags import EmbedConfig


def main(config: EmbedConfig) -> None:
    """Encodes, writes, and prints what the file holds."""
    require(config, "workdir", "output")
    import_tensorflow_quietly()
    from mulsupcon_tf.commands.embedding import export_embeddings

    arrays = export_embeddings(config)
    shapes = ", ".join(f"{name} [{', '.join(map(str, array.shape))}]" for name, array in arrays.items() if array.ndim)
    print(f"{config.split} written to {config.output}: {shapes}")


def run() -> None:
    """Entry point of the console script."""
    run_binary(EmbedConfig, main, usage=__doc__)


if __name__ == "__main__":
    run()
