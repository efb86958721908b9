"""Labels for files by an exported model: one line for each image file, or for each row of a file of vectors.

  python -m mulsupcon_tf.predict --saved_model=models/digits photo1.jpg photo2.png
  python -m mulsupcon_tf.predict --workdir=runs/photos_ft --format=csv --top_k=3 holiday/ 'album/*.jpg'
  python -m mulsupcon_tf.predict --saved_model=models/scene features.npy

A folder stands for all images below it, a table for the files in its column `file`. A file that cannot be read is reported
and passed over; the exit status is 1 then.
"""

from collections.abc import Sequence

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.fields import require_one
from mulsupcon_tf.config.program_flags import PredictConfig


def main(config: PredictConfig, files: Sequence[str]) -> None:
    """Predicts and prints."""
    require_one(config, "saved_model", "workdir")
    import_tensorflow_quietly()
    from mulsupcon_tf.commands.predicting import predicted_lines

    for line in predicted_lines(config, files):
        print(line, flush=True)


def run() -> None:
    """Entry point of the console script."""
    run_binary(PredictConfig, main, usage=__doc__, takes_files=True)


if __name__ == "__main__":
    run()
