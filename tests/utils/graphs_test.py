import gc
import pathlib
import re
import weakref

import pytest
import tensorflow as tf

import mulsupcon_tf
from mulsupcon_tf.utils.graphs import as_written, compiled, compiled_for, traced_once

PACKAGE = pathlib.Path(mulsupcon_tf.__file__).parent
SOURCES = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
HERE = PACKAGE / "utils" / "graphs.py"


def sign(number):
    if number > 0:
        return tf.constant(1)
    return tf.constant(-1)


def sign_of_next(number):
    return sign(number + 1)


def on_each_replica(number):
    strategy = tf.distribute.MirroredStrategy([tf.config.list_logical_devices("CPU")[0].name])
    return strategy.run(sign, args=(number,))


@pytest.mark.parametrize("function", [sign, sign_of_next, on_each_replica])
def test_a_python_condition_on_a_tensor_is_refused_however_deep(function):
    assert int(tf.function(sign)(tf.constant(3))) == 1  # which autograph would rewrite
    with pytest.raises(tf.errors.OperatorNotAllowedInGraphError):
        compiled(function)(tf.constant(3))


def test_so_it_is_in_a_pipeline():
    numbers = tf.data.Dataset.range(-1, 2)
    assert [int(each) for each in numbers.map(sign)] == [-1, -1, 1]
    with pytest.raises(tf.errors.OperatorNotAllowedInGraphError):
        numbers.map(as_written(sign))


def test_a_compiled_function_keeps_its_names_and_takes_options():
    spec = tf.TensorSpec([None], tf.float32, name="samples")
    double = compiled(lambda samples: {"twice": 2 * samples}, input_signature=[spec]).get_concrete_function()
    assert list(double.structured_input_signature[0]) == [spec]
    assert double(tf.constant([1.0, 2.0]))["twice"].numpy().tolist() == [2.0, 4.0]


def test_a_part_that_is_traced_once_is_called_by_the_graphs_around_it():
    traces = []

    def cube(number):
        traces.append(number)
        return number**3

    part = traced_once(cube, [tf.TensorSpec((), tf.float32)])
    graphs = [compiled(lambda: part(tf.constant(2.0))).get_concrete_function() for _ in range(2)]
    assert [float(each()) for each in graphs] == [8.0, 8.0]
    assert len(traces) == 1
    for each in graphs:
        operations = {operation.type for operation in each.graph.get_operations()}
        assert "PartitionedCall" in operations
        assert "Pow" not in operations


class Scale:
    """What graphs are made for: a factor that they read while they run, and a power that they are made with."""

    def __init__(self, factor):
        self.factor, self.power = tf.Variable(factor), 1

    def graph(self):
        return compiled_for(self, scaled, (self.power,))


def scaled(scale, numbers):
    return (scale.factor * numbers) ** scale.power


def test_what_is_compiled_for_an_object_is_made_once_and_anew_for_other_constants():
    scale, other = Scale(2.0), Scale(5.0)
    first = scale.graph()
    assert (float(first(tf.constant(3.0))), float(other.graph()(tf.constant(3.0)))) == (6.0, 15.0)
    scale.factor.assign(4.0)
    assert scale.graph() is first
    assert float(first(tf.constant(3.0))) == 12.0
    assert first.experimental_get_tracing_count() == 1
    scale.power = 2
    assert float(scale.graph()(tf.constant(3.0))) == 144.0
    assert compiled_for(scale, sum_of, ()) is not scale.graph()


def sum_of(scale, numbers):
    return scale.factor + numbers


def test_what_is_compiled_for_an_object_goes_with_it():
    """A process that judges many models would otherwise hold each of them, and each graph that it has traced."""
    scale = Scale(2.0)
    graphs = []
    for power in (1, 2):
        scale.power = power
        graphs.append(weakref.ref(scale.graph().get_concrete_function(tf.TensorSpec([])).graph))
    gc.collect()
    assert [each() is None for each in graphs] == [True, False]
    owner = weakref.ref(scale)
    del scale
    gc.collect()
    assert owner() is None
    assert graphs[1]() is None


@pytest.mark.parametrize("way", ["tf.function", "do_not_convert", "autograph"])
def test_there_is_no_other_way(way):
    assert [path.name for path, text in SOURCES.items() if way in text and path != HERE] == []


def test_every_pipeline_goes_this_way():
    calls = {
        (path.stem, call)
        for path, text in SOURCES.items()
        if path.parent.name == "input_pipeline"
        for call in re.findall(r"\.map\((\w+)", text)
    }
    assert len(calls) >= 3
    assert {function for _, function in calls} == {"as_written"}
