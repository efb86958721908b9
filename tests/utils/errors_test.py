from mulsupcon_tf.utils.errors import in_brief


def test_what_a_library_says_is_one_line_and_no_whole_configuration():
    assert in_brief(ValueError("wrong\n  shape: \t(3,)\n")) == "wrong shape: (3,)"
    text = in_brief(TypeError("could not locate class. " + "{'module': 'keras'}, " * 500))
    assert len(text) == 200 and text.startswith("could not locate class. {'module'") and text.endswith("…")
