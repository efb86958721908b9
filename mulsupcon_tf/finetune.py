"""Fine-tuning or linear probing of a pretrained encoder, then evaluation and export.

  python -m mulsupcon_tf.finetune --pretrained=runs/digits --workdir=runs/digits_ft
  python -m mulsupcon_tf.finetune --pretrained=runs/digits --linear_probe --workdir=runs/digits_probe
  python -m mulsupcon_tf.finetune --workdir=runs/digits_bce        # binary cross-entropy only, from random weights

The run directory gets flags.txt, metrics.jsonl, summary.json, model.keras, saved_model/, checkpoints/ and tensorboard/.
The same command again continues an interrupted run.
"""

from mulsupcon_tf.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config import FinetuneConfig
from mulsupcon_tf.settings import require


def main(config: FinetuneConfig) -> None:
    """Fine-tunes and prints the six metrics."""
    require(config, "workdir")
    import_tensorflow_quietly()
    from mulsupcon_tf.evaluation import format_results_table
    from mulsupcon_tf.finetuning import finetune

    print(format_results_table(finetune(config)))


def run() -> None:
    """Entry point of the console script."""
    run_binary(FinetuneConfig, main, usage=__doc__)


if __name__ == "__main__":
    run()
