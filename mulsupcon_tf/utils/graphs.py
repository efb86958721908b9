"""How Python functions become graphs of TensorFlow here: in one way, as they are written.

TensorFlow would first rewrite them by autograph, and every function that they call, Keras' too, so that a Python `if` or
`for` may be on a tensor. Here none is: loops and conditions on tensors are `tf.while_loop` and `tf.cond`, which say what
the graph will do. The rewriting takes longer than making the graph itself, in a training step several seconds, at each
start of a program.
"""

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf

Function = TypeVar("Function", bound=Callable[..., Any])


def as_written(function: Function) -> Function:
    """A function, for `tf.data.Dataset.map` above all, that is left as it is, and all that it calls.

    Args:
        function: with no Python `if` or `for` on a tensor, which TensorFlow refuses while it makes the graph.
    """
    return tf.autograph.experimental.do_not_convert(function)


def compiled(function: Callable[..., Any], **options: Any) -> tf.types.experimental.PolymorphicFunction:
    """`tf.function` of a function `as_written`.

    Args:
        function: as for `as_written`.
        **options: as for `tf.function`.
    """
    # Without the second word a strategy would rewrite what it runs within the function.
    return tf.function(as_written(function), autograph=False, **options)


def traced_once(
    function: Callable[..., Any], input_signature: Sequence[tf.TensorSpec]
) -> tf.types.experimental.PolymorphicFunction:
    """`compiled` for parts of many graphs, which call it and do not take it in.

    So the Python of it runs once a process, not once a graph, and where a graph goes by the call it does not go by each
    operation.

    Args:
        function: as for `as_written`, of tensors alone.
        input_signature: of its arguments; it has to hold for whatever they will be.
    """
    return compiled(function, input_signature=input_signature, experimental_attributes={"_noinline": True})


class _Made(NamedTuple):
    constants: tuple[Hashable, ...]
    graph: tf.types.experimental.PolymorphicFunction


_made: weakref.WeakKeyDictionary[Any, dict[Callable[..., Any], _Made]] = weakref.WeakKeyDictionary()


def compiled_for(
    owner: Any, function: Callable[..., Any], constants: tuple[Hashable, ...] = ()
) -> tf.types.experimental.PolymorphicFunction:
    """`compiled` for what is called again and again on an object, a model above all: it is made once, and goes with the object.

    Args:
        owner: the first argument of `function`; the others are those of what is returned.
        function: as for `as_written`, the same one at each call.
        constants: what the function reads of the owner that is no tensor and may change; then it is made anew.
    """
    of_owner = _made.setdefault(owner, {})
    if function not in of_owner or of_owner[function].constants != constants:
        found = weakref.ref(owner)  # with the owner itself what is kept here would keep it for ever
        of_owner[function] = _Made(constants, compiled(lambda *args: function(found(), *args)))
    return of_owner[function].graph
