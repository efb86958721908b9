from mulsupcon_tf.utils.spelling import nearest


def test_nearest():
    assert nearest("yaest", ["scene", "yeast", "enron"]) == "yeast"
    assert nearest("zzz", ["scene"]) == "scene"


def test_the_same_name_in_other_capitals_is_the_nearest():
    assert nearest("000.JPG", ["010.jpg", "001.JPG", "000.jpg"]) == "000.jpg"
    assert nearest("IMG_7.jpg", ["img_7.JPG", "IMG_1.jpg"]) == "img_7.JPG"
