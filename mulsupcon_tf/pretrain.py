"""Contrastive pretraining with recovered label distributions.

  python -m mulsupcon_tf.pretrain --workdir=runs/digits
  python -m mulsupcon_tf.pretrain --dataset=scene --data_dir=DIR --method=mulsupcon --workdir=runs/scene

The run directory gets flags.txt, metrics.jsonl, summary.json, encoder.weights.h5, checkpoints/ and tensorboard/.
The same command again continues an interrupted run.
"""

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.fields import require
from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.utils.wording import counted


def main(config: PretrainConfig) -> None:
    """Pretrains and prints where the results lie."""
    require(config, "workdir")
    import_tensorflow_quietly()
    from mulsupcon_tf.commands.pretraining import pretrain

    summary = pretrain(config)
    what = f"{summary['method']} on {summary['dataset']}: {counted(summary['epochs'], 'epoch')} in {summary['seconds']:.0f} s"
    print(f"{what}; results in {config.workdir}")


def run() -> None:
    """Entry point of the console script."""
    run_binary(PretrainConfig, main, usage=__doc__)


if __name__ == "__main__":
    run()
