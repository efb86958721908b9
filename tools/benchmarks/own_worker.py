"""Times our losses, by method; started by peer.py."""

import sys

from tools.benchmarks.loss import Size, extra_memory, loss_step
from tools.benchmarks.worker import serve

if __name__ == "__main__":
    steps = {method: loss_step(Size(), method) for method in sys.argv[1:]}
    serve(
        {name: lambda step=step: step().numpy() for name, step in steps.items()}, lambda name: extra_memory(steps[name])
    )
