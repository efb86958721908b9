"""Times our losses, by method; started by peer.py. `mulsupcon` is averaged over anchors, as the peer's is there."""

import sys

from mulsupcon_tf.losses.mulsupcon import MulSupCon
from tools.benchmarks.loss import Size, extra_memory, loss_step
from tools.benchmarks.worker import serve

if __name__ == "__main__":
    methods = {name: MulSupCon(average="anchor") if name == "mulsupcon" else name for name in sys.argv[1:]}
    steps = {name: loss_step(Size(), method) for name, method in methods.items()}
    serve(
        {name: lambda step=step: step().numpy() for name, step in steps.items()}, lambda name: extra_memory(steps[name])
    )
