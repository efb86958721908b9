"""The six metrics of a fine-tuned model on a split, or how good the embedding of a run is for search.

python -m mulsupcon_tf.evaluate --workdir=runs/digits_ft --split=test
python -m mulsupcon_tf.evaluate --workdir=runs/digits_ft --threshold=paper   # thresholds best on test: optimistic
python -m mulsupcon_tf.evaluate --workdir=runs/digits --retrieval            # a pretraining or a fine-tuning
"""

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.program_flags import EvaluateConfig


def main(config: EvaluateConfig) -> None:
    """Evaluates and prints the six metrics, or those of retrieval."""
    require(config, "workdir")
    import_tensorflow_quietly()
    if config.retrieval:
        from mulsupcon_tf.commands.evaluating import evaluate_retrieval, format_retrieval_table

        evaluate_retrieval(config, tell=lambda judged: print(format_retrieval_table(judged), flush=True))
        return
    from mulsupcon_tf.commands.evaluating import evaluate_run
    from mulsupcon_tf.evaluation.results import format_results_table

    evaluate_run(config, tell=lambda results: print(format_results_table(results), flush=True))


def run() -> None:
    """Entry point of the console script."""
    run_binary(EvaluateConfig, main, usage=__doc__)


if __name__ == "__main__":
    run()
