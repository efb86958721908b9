import gc
import pathlib
import sys

import pytest

# TensorFlow's graphs are so many objects that looking through them for garbage takes a tenth of the time of the tests.
gc.set_threshold(100_000, 10, 10)

REPOSITORY = pathlib.Path(__file__).parent.parent

# Whose tests take longest: begun last, one of them would run alone while the other process has nothing left to do.
LONG_FILES = (
    "tests/system/choices_test.py",
    "tests/models/pretrainer_test.py",
    "tests/commands/pretraining_test.py",
    "tests/input_pipeline/batches_test.py",
    "tests/commands/frozen_backbone_test.py",
    "tests/training/loop_test.py",
    "tests/serving/estimator_test.py",
    "tests/commands/finetuning_test.py",
    "tests/commands/earlier_run_test.py",
    "tests/input_pipeline/image_files_test.py",
    "tests/demo_test.py",
    "tests/models/backbones_test.py",
    "tests/system/binaries_test.py",
    "tests/commands/finished_run_test.py",
    "tests/serving/saved_model_test.py",
    "tests/models/replicas_test.py",
    "tests/training/data_changes_test.py",
    "tests/report_test.py",
    "tests/models/guarded_model_test.py",
    "tests/experiment_test.py",
    "tests/commands/embedding_test.py",
    "tests/training/agreement_test.py",
    "tests/system/photographs_test.py",
)


def pytest_collection_modifyitems(items):
    """Long files first; the order within a file stays."""
    places = {REPOSITORY / name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder of real datasets beside the checkout."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real datasets are not beside this checkout (../shared/data)")
    return folder


@pytest.fixture(scope="module")
def without_graph_optimisation():
    """For files whose graphs are small: TensorFlow's optimisation of them takes longer than they do."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture(autouse=True)
def _dtype_policy_of_one_test():
    """A test may set a mixed precision policy; it ends with the test."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].mixed_precision.set_dtype_policy("float32")
