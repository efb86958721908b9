import os
import pickle
import struct

import numpy as np
import pytest

from mulsupcon_tf.models.torch_pickle import read_torch_tensors
from mulsupcon_tf.utils.errors import InputError

MAGIC_NUMBER, LAYOUT = 0x1950A86A20F9469CFC6C, 1001


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integers(*values):
    return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"


def tensor(key, length, shape, strides, *, offset=0, kind="FloatStorage"):
    """What `torch.save` writes of a tensor: a call of the function that makes it, on the storage that it looks at."""
    storage = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu")
    storage += b"J" + struct.pack("<i", length) + b"NtQ"
    rest = (
        b"J" + struct.pack("<i", offset) + integers(*shape) + integers(*strides) + b"\x89ccollections\nOrderedDict\n)R"
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR"


def dictionary(**members):
    pairs = b"".join(text(name) + value for name, value in members.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + pairs + b"u."


def write(path, tensors, storages, *, head=(MAGIC_NUMBER, LAYOUT, {"little_endian": True})):
    """A file as PyTorch before 1.6 wrote it."""
    keys = pickle.dumps(list(storages), 2)
    data = b"".join(struct.pack("<q", len(values)) + values.tobytes() for values in storages.values())
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + tensors + keys + data)
    return path


NUMBERS = np.arange(24, dtype=np.float32)


def test_tensors_are_read_with_their_shapes_and_strides(tmp_path):
    tensors = dictionary(
        weight=tensor("1", 24, (2, 3, 4), (12, 4, 1)),
        transposed=tensor("1", 24, (4, 3), (1, 4), offset=12),
        scalar=tensor("2", 1, (), (), kind="LongStorage"),
    )
    path = write(tmp_path / "a.pth", tensors, {"1": NUMBERS, "2": np.array([7], np.int64)})
    read = read_torch_tensors(path)
    np.testing.assert_array_equal(read["weight"], NUMBERS.reshape(2, 3, 4))
    np.testing.assert_array_equal(read["transposed"], NUMBERS[12:].reshape(3, 4).T)
    assert (read["weight"].dtype, read["scalar"].dtype, read["scalar"]) == (np.float32, np.int64, 7)


class Hostile:
    """Would make a folder if it were unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("place", ["magic", "facts", "tensors", "within", "keys"])
def test_what_a_pickle_would_run_is_not_run(tmp_path, place):
    harm = tmp_path / "harm"
    hostile = pickle.dumps(Hostile(harm), 2)
    pickle.loads(hostile)  # the file is harmful indeed
    harm.rmdir()
    good = dictionary(weight=tensor("1", 24, (24,), (1,)))
    path = tmp_path / "a.pth"
    if place == "magic":
        path.write_bytes(hostile)
    elif place == "facts":
        write(path, good, {"1": NUMBERS}, head=(MAGIC_NUMBER, LAYOUT, Hostile(harm)))
    elif place == "tensors":
        write(path, hostile, {"1": NUMBERS})
    elif place == "within":
        write(path, dictionary(weight=hostile[2:-1]), {"1": NUMBERS})
    else:
        write(path, good + hostile, {"1": NUMBERS})
    with pytest.raises(InputError, match=r"^a weight file of PyTorch must hold .*mkdir is not known"):
        read_torch_tensors(path)
    assert not harm.exists()


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (dictionary(weight=tensor("1", 24, (25,), (1,))), "beyond its storage"),
        (dictionary(weight=tensor("1", 24, (12,), (1,), offset=13)), "beyond its storage"),
        (dictionary(weight=tensor("1", 24, (2, 2), (23, 1))), "beyond its storage"),
        (dictionary(weight=tensor("1", 24, (30000, 30000), (0, 0))), "beyond its storage"),
        (dictionary(weight=tensor("1", 24, (-2,), (1,))), "shape"),
        (dictionary(weight=tensor("1", 24, (2,), (-1,), offset=3)), "shape"),
        (dictionary(weight=tensor("1", 2**30, (2,), (1,))), "larger than the file"),
        (dictionary(weight=tensor("1", 23, (2,), (1,))), "cut off"),
        (dictionary(weight=tensor("9", 24, (2,), (1,))), "KeyError"),
        (dictionary(weight=tensor("1", 24, (2,), (1,), kind="HalfStorage")), "HalfStorage is not known"),
        (dictionary(weight=text("no tensor")), "not a dictionary of tensors"),
        (pickle.dumps([1], 2), "not a dictionary of tensors"),
    ],
)
def test_tensors_that_cannot_be_are_refused_in_one_line(tmp_path, tensors, reason):
    path = write(tmp_path / "a.pth", tensors, {"1": NUMBERS})
    with pytest.raises(InputError, match=reason) as caught:
        read_torch_tensors(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_cut_off_or_of_another_kind_is_refused_in_one_line(tmp_path):
    whole = write(tmp_path / "a.pth", dictionary(weight=tensor("1", 24, (24,), (1,))), {"1": NUMBERS}).read_bytes()
    for length in (0, 1, 20, 100, len(whole) - 97, len(whole) - 1):
        (tmp_path / "b.pth").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"^a weight file of PyTorch must"):
            read_torch_tensors(tmp_path / "b.pth")
    (tmp_path / "b.pth").write_bytes(b"PK\x03\x04" + whole)  # since 1.6 it is a zip archive
    with pytest.raises(InputError, match=r"^a weight file of PyTorch must"):
        read_torch_tensors(tmp_path / "b.pth")
    with pytest.raises(InputError, match="FileNotFoundError"):
        read_torch_tensors(tmp_path / "none.pth")
