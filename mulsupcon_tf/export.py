"""Writes a fine-tuned model, with a card that says what it is, in a form that needs nothing of this package.

python -m mulsupcon_tf.export --workdir=runs/digits_ft --output=models/digits/1
python -m mulsupcon_tf.export --workdir=runs/digits_ft --output=models/digits_onnx --format=onnx
"""

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.program_flags import ExportConfig

FORMAT_NAMES = {"saved_model": "SavedModel", "onnx": "ONNX model", "litert": "LiteRT model"}


def main(config: ExportConfig) -> None:
    """Exports and prints where to."""
    require(config, "workdir", "output")
    import_tensorflow_quietly()
    from mulsupcon_tf.commands.exporting import export_run

    export_run(config)
    print(f"{FORMAT_NAMES[config.format]} written to {config.output}")


def run() -> None:
    """Entry point of the console script."""
    run_binary(ExportConfig, main, usage=__doc__)


if __name__ == "__main__":
    run()
