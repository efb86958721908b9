"""The six metrics of a fine-tuned model on a split.

python -m mulsupcon_tf.evaluate --workdir=runs/digits_ft --split=test
python -m mulsupcon_tf.evaluate --workdir=runs/digits_ft --threshold=paper   # thresholds best on test: optimistic
"""

from mulsupcon_tf.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config import EvaluateConfig
from mulsupcon_tf.settings import require


def main(config: EvaluateConfig) -> None:
    """Evaluates and prints the six metrics."""
    require(config, "workdir")
    import_tensorflow_quietly()
    from mulsupcon_tf.evaluation import format_results_table
    from mulsupcon_tf.finetuning import evaluate_run

    print(format_results_table(evaluate_run(config)))


def run() -> None:
    """Entry point of the console script."""
    run_binary(EvaluateConfig, main, usage=__doc__)


if __name__ == "__main__":
    run()
