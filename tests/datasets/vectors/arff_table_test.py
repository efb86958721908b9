import numpy as np
import pytest

from mulsupcon_tf.datasets.vectors.arff_table import Attribute, plain_name, read_table
from mulsupcon_tf.utils.errors import InputError

HEADER = """% a comment
@relation 'small set'

@attribute size numeric
@ATTRIBUTE\t'colour of it'\t{red, 'light blue', green}
@attribute 'it\\'s round' {0,1}
@attribute weight REAL
"""


def write(tmp_path, text):
    path = tmp_path / "small.arff"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "rows",
    [
        "1.5,red,0,-2\n\n% comment\n-3e-2, 'light blue', 1, 4\n0,green,1,0\n",
        "{0 1.5,3 -2}\n\n% comment\n{0 -3e-2, 1 'light blue', 2 1, 3 4}\n{1 green,2 1}\n",
    ],
    ids=["dense", "sparse"],
)
def test_rows_nominal_codes_and_lines(tmp_path, rows):
    table = read_table(write(tmp_path, f"{HEADER}@data\n{rows}"))

    assert table.attributes == (
        Attribute("size", None),
        Attribute("colour of it", ("red", "light blue", "green")),
        Attribute("it's round", ("0", "1")),
        Attribute("weight", None),
    )
    np.testing.assert_array_equal(table.codes, np.array([[1.5, 0, 0, -2], [-3e-2, 1, 1, 4], [0, 2, 1, 0]], np.float32))
    assert table.codes.dtype == np.float32
    assert list(table.lines) == [9, 12, 13]


ROWS = [[1.5, 0, 0, -2], [-3e-2, 1, 1, 4], [0, 2, 1, 0]]


@pytest.mark.parametrize(
    "rows",
    [
        "1.5 red 0 -2\n-3e-2\t'light blue'\t1\t4\n0 \t green  1 0 \n",
        '1.5,red 0 -2\n-3e-2 , "light blue",1 4\n0,green,1,0\n',
        "1.5,red,0,-2 % a remark, with {braces}\n-3e-2,'light blue',1,4\t%\n   % alone\n0,green,1,0\n",
        "1.5,red,0,-2,{1}\n-3e-2,'light blue',1,4, {1.0}\n0,green,1,0 {1e0} % counts as much as the others\n",
        "{0 1.5,3 -2} % a remark\n{0 -3e-2,1 'light blue',2 1,3 4}, {1}\n{1 green, 2 1}\n",
        '{0\t1.5,\t3 -2}\n{3 4,2 1,1 "light blue",0 -3e-2}\n{1 green,2 1}{1}\n',
    ],
)
def test_rows_as_weka_takes_them(tmp_path, rows, caplog):
    table = read_table(write(tmp_path, f"{HEADER}@data\n{rows}"))
    np.testing.assert_array_equal(table.codes, np.array(ROWS, np.float32))
    assert not caplog.records


def test_commas_inside_texts_are_no_second_index(tmp_path):
    header = "@relation r\n@attribute x numeric\n@attribute y {a, 'b, 0 c'}\n@data\n"
    table = read_table(write(tmp_path, header + "{0 1,1 'b, 0 c'}\n"))
    np.testing.assert_array_equal(table.codes, [[1, 1]])


def test_weights_of_rows_are_left_out_with_a_warning(tmp_path, caplog):
    table = read_table(write(tmp_path, HEADER + "@data\n1.5,red,0,-2,{5}\n-3e-2,'light blue',1,4\n0,green,1,0,{0.5}\n"))
    np.testing.assert_array_equal(table.codes, np.array(ROWS, np.float32))
    assert caplog.messages == [f"{table.path}: weights of rows are not used, of which not 1: 2"]


def test_declarations_as_weka_takes_them(tmp_path):
    header = """@relation zoo % of animals
@attribute\tlegs\tINTEGER [0,9]
@attribute weight real(0,inf] % in kg
@attribute kind {cat,'a % b'} %{no comment, in a comment}
@attribute 'share % of all' numeric
@attribute Rock'n'roll {0,1}% one quote does not begin a text
"""
    table = read_table(write(tmp_path, header + "@data % follows\n2.5,3,'a % b',0.5,1\n"))
    assert table.attributes == (
        Attribute("legs", None),
        Attribute("weight", None),
        Attribute("kind", ("cat", "a % b")),
        Attribute("share % of all", None),
        Attribute("Rock'n'roll", ("0", "1")),
    )
    np.testing.assert_array_equal(table.codes, np.array([[2.5, 3, 1, 0.5, 1]], np.float32))


@pytest.mark.parametrize("sparse", [False, True])
def test_texts_are_numbered_in_the_order_in_which_they_come(tmp_path, sparse):
    header = "@relation r\n@attribute id string\n@attribute x numeric\n@data\n"
    rows = "{0 b,1 1}\n{0 'a c',1 2}\n{1 3}\n{0 b}\n" if sparse else "b,1\n'a c',2\n'',3\nb,0\n"
    table = read_table(write(tmp_path, header + rows))
    assert table.attributes[0] == Attribute("id", None, is_text=True)
    np.testing.assert_array_equal(table.codes, [[0, 1], [1, 2], [2, 3], [0, 0]])


@pytest.mark.parametrize(
    ("encoding", "given"),
    [
        ("utf-8", ()),
        ("utf-8-sig", ()),
        ("utf-16", ()),
        ("latin-1", ()),
        ("cp1252", ("cp1252",)),
        ("koi8-r", ("koi8-r",)),
    ],
)
def test_encodings(tmp_path, encoding, given):
    # Values that differ in letters beyond ASCII alone stay apart, which they do not as U+FFFD.
    values = ("жук", "лис") if encoding == "koi8-r" else ("café", "cafè")
    text = f"@relation r\n@attribute 'größe' {{{values[0]},{values[1]}}}\n@data\n{values[1]}\n{values[0]}\n"
    path = tmp_path / "small.arff"
    path.write_bytes((text if encoding != "koi8-r" else text.replace("größe", "размер")).encode(encoding))
    table = read_table(path, *given)
    assert table.attributes == (Attribute("размер" if encoding == "koi8-r" else "größe", values),)
    assert table.codes.tolist() == [[1], [0]]


def test_an_empty_sparse_row_is_all_default(tmp_path):
    table = read_table(write(tmp_path, f"{HEADER}@DATA\n{{0 2}}\n{{}}\n{{ }}\n"))
    np.testing.assert_array_equal(table.codes, [[2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


BAD = {
    "empty file": ("", r"small.arff \(0 bytes, no row\)"),
    "no data line": (HEADER, "at least one row. Received: .*small.arff"),
    "no row": (HEADER + "@data\n% nothing\n", "no row"),
    "no ARFF": ("a,b\n1,2\n@data\n1,2\n", "Received: .*small.arff, line 3"),
    "row cut between values": (HEADER + "@data\n1,red,0,1\n2,red\n", "one value for each .*line 10: '2,red'"),
    "row cut in a quotation": (HEADER + "@data\n1,red,0,1\n2,'light", 'cut short.*line 10: "2,\'light"'),
    "row cut after a comma": (
        HEADER + "@data\n1,red,0,1\n2,red,1,",
        r"missing .*line 10 \(row 2\), attribute 'weight'",
    ),
    "row too long": (HEADER + "@data\n1,red,0,1,7\n", "one value for each .*line 9"),
    "sparse row cut": (HEADER + "@data\n{0 1}\n{0 1,1 red", "cut short.*line 10: '{0 1,1 red'"),
    "sparse row cut in a pair": (HEADER + "@data\n{0 1}\n{0 1,1", "cut short.*line 10"),
    "sparse index": (HEADER + "@data\n{0 1,4 1}\n", "one value for each .*line 9"),
    "dense row in a sparse file": (HEADER + "@data\n{0 1}\n1,red,0,1\n", "line 10"),
    "undeclared value": (HEADER + "@data\n1,pink,0,1\n", "one of the declared ones. .*line 9: '1,pink,0,1'"),
    "undeclared sparse value": (HEADER + "@data\n{2 7}\n", "one of the declared ones. .*line 9"),
    "text for a number": (HEADER + "@data\nbig,red,0,1\n", "must be a number. .*line 9"),
    "text for a sparse number": (HEADER + "@data\n{0 big}\n", "must be a number. .*line 9"),
    "missing value": (HEADER + "@data\n1,red,0,1\n?,red,0,1\n", r"missing .*line 10 \(row 2\), attribute 'size'"),
    "missing sparse value": (HEADER + "@data\n{1 ?}\n", r"missing .*line 9 \(row 1\), attribute 'colour of it'"),
    "NaN": (HEADER + "@data\n1,red,0,nan\n", r"NaN in .*line 9 \(row 1\), attribute 'weight'"),
    "infinity": (HEADER + "@data\n1,red,0,-inf\n", "Received: -inf in .*attribute 'weight'"),
    "beyond float32": (HEADER + "@data\n1e39,red,0,1\n", "Received: inf in .*attribute 'size'"),
    "integer NaN": ("@relation r\n@attribute n integer\n@data\n1\nnan\n", "line 5"),
    "integer infinity": ("@relation r\n@attribute n integer\n@data\n1\ninf\n", "line 5"),
    "sparse index twice": (
        HEADER + "@data\n{0 1}\n{0 1,1 'light blue', 00 3}\n",
        "each attribute once. Received: index 0 twice in .*small.arff, line 10: \"{0 1,1 'light blue', 00 3}\"",
    ),
    "row of spaces too short": (HEADER + "@data\n1 red 0\n", "one value for each .*line 9|values divided .*line 9"),
    "value left out": (HEADER + "@data\n1,,red,0,1\n", "one value for each .*line 9"),
    "weight in words": (HEADER + "@data\n1,red,0,1,{heavy}\n", "keep to the format. .*line 9: '1,red,0,1,{heavy}'"),
    "date attribute": (HEADER + "@attribute day date\n@data\n1,red,0,1,x\n", "numeric or nominal. .*line 8"),
    "same attribute twice": (HEADER + "@attribute size real\n@data\n1,red,0,1,1\n", "distinct names. .*line 8"),
    "attribute without a type": (HEADER + "@attribute x\n@data\n1,red,0,1,1\n", "line 8"),
    "percent sign": (HEADER + "@data\n1,red,%d\n", "one value for each .*line 9"),
    "NUL bytes": (HEADER + "@data\n1,red,0,1\n\0\0\0\0,\0\n", "line 10"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_broken_files_are_one_line_with_file_and_place(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_table(write(tmp_path, text))
    assert "small.arff" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"must be readable. Received: .*absent.arff \(No such file or directory\)"):
        read_table(tmp_path / "absent.arff")


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "picture.arff"
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(InputError, match=r"picture.arff"):
        read_table(path)


@pytest.mark.parametrize(
    "name", ["Swainson's Thrush", r"'Swainson\'s Thrush'", r" Swainson\'s Thrush ", '"Swainson\'s Thrush"']
)
def test_plain_name(name):
    assert plain_name(name) == "Swainson's Thrush"


def dense_rows(path):
    lines = path.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.lower().startswith("@data"))
    return [[float(value) for value in line.split(",")] for line in lines[start + 1 :] if line]


def sparse_rows(path, width):
    rows = []
    for line in path.read_text().splitlines():
        if line.startswith("{"):
            row = [0.0] * width
            for pair in line.strip("{} ").split(","):
                index, value = pair.split()
                row[int(index)] = float(value)
            rows.append(row)
    return rows


def test_real_dense_file_against_plain_parsing(shared_data):
    path = shared_data / "mulan" / "scene" / "scene-train.arff"
    table = read_table(path)
    assert table.codes.shape == (1211, 300)
    np.testing.assert_array_equal(table.codes, np.array(dense_rows(path), np.float32))


@pytest.mark.parametrize(
    ("file", "shape"),
    [("corel5k/Corel5k-train-sparse.arff", (4500, 873)), ("enron/enron-test.arff", (579, 1054))],
)
def test_real_sparse_files_against_plain_parsing(shared_data, file, shape):
    path = shared_data / "mulan" / file
    table = read_table(path)
    assert table.codes.shape == shape
    np.testing.assert_array_equal(table.codes, np.array(sparse_rows(path, shape[1]), np.float32))
