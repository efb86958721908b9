from mulsupcon_tf.utils.wording import counted, in_bytes, nearest, points


def test_one_is_not_plural():
    assert [counted(count, "epoch") for count in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]
    assert [counted(count, "query", "queries") for count in (1, 2)] == ["1 query", "2 queries"]


def test_bytes_are_never_nothing():
    assert [in_bytes(count) for count in (300, 5 * 2**10, 2**20, 700 * 2**20, 1.5 * 2**30)] == [
        "0.3 KiB",
        "5.0 KiB",
        "1.0 MiB",
        "700.0 MiB",
        "1.5 GiB",
    ]


def test_points_have_a_sign_and_zero_has_none():
    assert [points(value) for value in (0.0123, -0.0123, 0.0004, -0.0004, 0.0)] == ["+1.2", "−1.2", "0.0", "0.0", "0.0"]


def test_nearest():
    assert nearest("yaest", ["scene", "yeast", "enron"]) == "yeast"
    assert nearest("zzz", ["scene"]) == "scene"


def test_the_same_name_in_other_capitals_is_the_nearest():
    assert nearest("000.JPG", ["010.jpg", "001.JPG", "000.jpg"]) == "000.jpg"
    assert nearest("IMG_7.jpg", ["img_7.JPG", "IMG_1.jpg"]) == "img_7.JPG"
