import pytest

from mulsupcon_tf.utils.atomic_file import replacing, write_text


def test_text_replaces_a_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "summary.json"
    write_text(path, "old")
    write_text(path, "τ = 0.1\n")
    assert path.read_text(encoding="utf-8") == "τ = 0.1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_until_the_end_of_the_block_the_old_file_stays(tmp_path):
    path = tmp_path / "encoder.weights.h5"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # a rename across file systems would not be atomic
        assert temporary.name.endswith(".weights.h5")
    assert path.read_text() == "new"


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), replacing(path) as temporary:
        temporary.write_text("ha")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
