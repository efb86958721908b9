"""What the data are like and what a training on them takes, before anything is trained.

  python -m mulsupcon_tf.check --dataset=csv --data_dir=photos
  python -m mulsupcon_tf.check --flagfile=flags/csv_pretrain.flags --data_dir=photos

It takes the flags of `pretrain`, and writes nothing.
"""

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.program_flags import CheckConfig


def main(config: CheckConfig) -> None:
    """Prints what is found, as it is found."""
    import_tensorflow_quietly()
    from mulsupcon_tf.commands.checking import check

    for line in check(config):
        print(line, flush=True)


def run() -> None:
    """Entry point of the console script."""
    run_binary(CheckConfig, main, usage=__doc__)


if __name__ == "__main__":
    run()
