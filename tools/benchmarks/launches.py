"""Section launches: how many operations of a training step a device has to start, read from TensorFlow's optimised graph.

A GPU starts no small operation sooner than a large one, so a step of many small ones waits for the next more than it
computes. Counted on tiny images, whose graph is that of large ones: the networks in each precision, then each method on
the smallest. What only hands a value on, renames it or says where it goes is not counted. The processor's graph is not in
every point that of a GPU, which joins other operations and changes layouts: the counts are for comparing two versions.
"""

import collections
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mulsupcon_tf.config.command_line import import_tensorflow_quietly
from mulsupcon_tf.utils.choices import METHODS
from tools.benchmarks.images import Case, build
from tools.benchmarks.measurement import Measurement
from tools.benchmarks.precision import POLICIES, policy

SECTION = "launches"
CASES = (Case("resnet50", 32, 4, queue_size=16), Case("resnet18", 32, 4, queue_size=16))
# Kinds of operations that start nothing: values that are there already, views of them, variables whose memory is handed
# over, and where control goes.
STARTS_NOTHING = frozenset(
    {
        *("_Arg", "_Retval", "_DeviceArg", "_DeviceRetval", "Const", "Placeholder", "Identity", "IdentityN", "NoOp"),
        *("VarHandleOp", "ReadVariableOp", "AssignVariableOp", "Reshape", "Squeeze", "ExpandDims", "Shape", "ShapeN"),
        *("Size", "Rank", "StopGradient", "PreventGradient", "Switch", "Merge", "Enter", "Exit", "NextIteration"),
        *("LoopCond", "If", "StatelessIf", "While", "StatelessWhile"),
    }
)


def measure(
    settings: Any, cases: tuple[Case, ...] = CASES, methods: tuple[str, ...] = tuple(METHODS)
) -> Iterator[Measurement]:
    """Operations of the steps of every case in each precision, and of the last case's for each method."""
    del settings
    import_tensorflow_quietly()
    for case in cases:
        for precision in POLICIES:
            yield _measurement(case, precision)
    for method in methods:
        if method != cases[-1].method:
            yield _measurement(cases[-1]._replace(method=method), "float32")


def _measurement(case: Case, precision: str) -> Measurement:
    with policy(precision):
        model, data = build(case)
    kinds = operations_of(lambda: model.train_step(data))
    most = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
    return Measurement(SECTION, f"{case.backbone}, {case.method}, {precision}", "operations", [kinds.total()], most)


def operations_of(function: Callable[[], Any]) -> collections.Counter[str]:
    """Kinds of the operations that a function starts, as TensorFlow has optimised it; each is counted once, in loops too.

    Args:
        function: is compiled and called once.
    """
    from tensorflow.python.eager import context

    from mulsupcon_tf.utils.graphs import compiled

    run = compiled(function).get_concrete_function()  # first: what is made here is not of the graph that is counted
    context.context().enable_run_metadata()
    try:
        run()
        graphs = context.context().export_run_metadata().function_graphs
    finally:
        context.context().disable_run_metadata()
    nodes = [node for graph in graphs for node in graph.post_optimization_graph.node]
    for graph in graphs:
        nodes += [node for part in graph.post_optimization_graph.library.function for node in part.node_def]
    return started(collections.Counter(node.op for node in nodes))


def started(kinds: Mapping[str, int]) -> collections.Counter[str]:
    """Those kinds of operations, with their numbers, that start something."""
    return collections.Counter({kind: count for kind, count in kinds.items() if kind not in STARTS_NOTHING})
