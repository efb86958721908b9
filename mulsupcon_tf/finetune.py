"""Fine-tuning or linear probing of a pretrained encoder, then evaluation and export.

  python -m mulsupcon_tf.finetune --pretrained=runs/digits --workdir=runs/digits_ft
  python -m mulsupcon_tf.finetune --pretrained=runs/digits --linear_probe --workdir=runs/digits_probe
  python -m mulsupcon_tf.finetune --workdir=runs/digits_bce        # binary cross-entropy only, from random weights

The run directory gets flags.txt, metrics.jsonl, summary.json, model.keras, saved_model/, checkpoints/ and tensorboard/.
The same command again continues an interrupted run.
"""

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.flags import FinetuneConfig


def main(config: FinetuneConfig) -> None:
    """Fine-tunes and prints the six metrics."""
    require(config, "workdir")
    import_tensorflow_quietly()
    from mulsupcon_tf.commands.finetuning import finetune
    from mulsupcon_tf.evaluation.results import format_results_table

    print(format_results_table(finetune(config)))


def run() -> None:
    """Entry point of the console script."""
    run_binary(FinetuneConfig, main, usage=__doc__)


if __name__ == "__main__":
    run()
