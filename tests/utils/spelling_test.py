from mulsupcon_tf.utils.spelling import nearest


def test_nearest():
    assert nearest("yaest", ["scene", "yeast", "enron"]) == "yeast"
    assert nearest("zzz", ["scene"]) == "scene"
