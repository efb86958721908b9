"""Labels for files by an exported model: one JSON line for each image file, or for each row of a file of vectors.

python -m mulsupcon_tf.predict --saved_model=models/digits photo1.jpg photo2.png
python -m mulsupcon_tf.predict --saved_model=models/scene features.npy
"""

import json
from collections.abc import Sequence

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.program_flags import PredictConfig


def main(config: PredictConfig, files: Sequence[str]) -> None:
    """Predicts and prints."""
    require(config, "saved_model")
    import_tensorflow_quietly()
    from mulsupcon_tf.commands.predicting import predict

    for record in predict(config, files):
        print(json.dumps(record), flush=True)


def run() -> None:
    """Entry point of the console script."""
    run_binary(PredictConfig, main, usage=__doc__, takes_files=True)


if __name__ == "__main__":
    run()
