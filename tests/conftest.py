import dataclasses
import gc
import pathlib
import sys

import pytest

from tests.helpers.scripts import run_script

# TensorFlow's graphs are so many objects that looking through them for garbage takes a tenth of the time of all tests.
gc.set_threshold(100_000, 50, 100)

REPOSITORY = pathlib.Path(__file__).parent.parent


@dataclasses.dataclass
class FinishedDemo:
    folder: pathlib.Path
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory) -> FinishedDemo:
    """The real demo on the real data, two steps a phase."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    done = run_script("mulsupcon_tf.demo", f"--workdir={folder}", "--max_steps=2")
    assert done.returncode == 0, done.stderr
    return FinishedDemo(folder, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder of real datasets beside the checkout."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real datasets are not beside this checkout (../shared/data)")
    return folder


@pytest.fixture(autouse=True)
def _dtype_policy_of_one_test():
    """A test may set a mixed precision policy; it ends with the test."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].mixed_precision.set_dtype_policy("float32")
