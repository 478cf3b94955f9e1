"""Tables are read back as they were written, and whatever is wrong with one is told by its line."""

from __future__ import annotations

import csv
import gzip
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdml_fast.data.dataset import DataError
from ssdml_fast.data.tables import read_table

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12).map(str.strip)
NAMES = TEXTS.filter(lambda text: text and not text.startswith("sep="))


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all examples of hypothesis."""
    return tmp_path_factory.mktemp("tables")


# ---- texts


@settings(max_examples=150, deadline=None)
@given(
    st.data(),
    st.lists(NAMES, min_size=2, max_size=5, unique=True),
    st.sampled_from(",;\t"),
    st.sampled_from([("\n", csv.QUOTE_ALL), ("\r", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_any_table_that_is_written_is_read_back(folder, data, names, delimiter, ends, encoding):
    rows = data.draw(st.lists(st.tuples(*[TEXTS] * len(names)), max_size=8))
    file, (end, quoting) = io.StringIO(), ends
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(names)  # in quotes, so that the other delimiters in it are none
    csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(rows)
    table = read_table(write(folder / "t.csv", file.getvalue(), encoding))
    assert table.columns == tuple(names) and len(table) == len(rows)
    for name, column in zip(names, zip(*rows, strict=True), strict=False):
        assert table._texts(names.index(name)) == list(column)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_chosen_by_content(tmp_path, delimiter, suffix):
    rows = [["Path", " LABEL "], ["a, b.jpg", "cat"], ["c; d.jpg", " dog "]]
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(rows)
    table = read_table(write(tmp_path / f"t{suffix}", file.getvalue()))
    assert table.columns == ("Path", "LABEL")
    assert table.column("path") == ["a, b.jpg", "c; d.jpg"] and table.column("label") == ["cat", "dog"]


def test_one_column_and_one_of_texts_with_commas(tmp_path):
    assert read_table(write(tmp_path / "1.csv", "path\na.jpg\nb.jpg\n")).column("path") == ["a.jpg", "b.jpg"]
    table = read_table(write(tmp_path / "2.csv", "path\n" + "a, b.jpg\n" * 3))
    assert table.column("path") == ["a, b.jpg"] * 3


def test_a_spreadsheets_separator_line_is_obeyed(tmp_path):
    table = read_table(write(tmp_path / "t.csv", "sep=;\r\na,b;c\r\n1,5;2\r\n", "utf-8-sig"))
    assert table.columns == ("a,b", "c") and table.column("a,b") == ["1,5"] and table.line(0) == "line 3"


def test_lines_count_blank_ones_and_those_within_quotes(tmp_path):
    table = read_table(write(tmp_path / "t.csv", '\na,b\n\n"1\n1",2\n   \n3,4\n,\n'))
    assert [table.line(row) for row in range(len(table))] == ["line 4", "line 7", "line 8"]
    assert table.column("a") == ["1\n1", "3", ""]


def test_columns_without_a_name_are_kept_apart(tmp_path):
    table = read_table(write(tmp_path / "t.csv", ",x,\n0,1,\n1,2,\n"))
    assert table.columns == ("", "x", "") and table.numbers("x").tolist() == [1, 2]


def test_many_rows_keep_their_order_and_lines(tmp_path):
    table = read_table(write(tmp_path / "t.csv", "i,n\n" + "".join(f"{i},x{i}\n" for i in range(10_000))))
    assert table.numbers("i").tolist() == list(range(10_000)) and table.column("n")[9_000] == "x9000"
    assert table.line(9_999) == "line 10001"
    broken = write(tmp_path / "t.csv", "i\n" + "".join("1\n" if i != 9_000 else "one\n" for i in range(10_000)))
    with pytest.raises(DataError, match=r"column 'i' of .* must hold numbers, found 'one' in line 9002"):
        read_table(broken).numbers("i")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must begin with a line of column names, found nothing"),
        (b"\n\n  \n", "column names, found nothing"),
        (b",,\n1,2,3\n", "column names, found none"),
        (b"a,b\n1,2\n3\n", "line 3 of .* must have 2 fields, as its first line has, found 1"),
        (b"a,b\n\n1,2,3\n", "line 3 of .* must have 2 fields, .* found 3"),
        (b"a,b,a\n1,2,3\n", "columns of different names, found 'a' twice"),
        (b"a,b\n1,\xff\n", "line 2 of .* must be UTF-8, found bytes that are not; save the table as UTF-8"),
        ("a,b\nä,1\n".encode("latin-1"), "line 2 of .* must be UTF-8"),
        ("a,b\n1,2\n".encode("utf-16")[:-1], "line 2 of .* must be UTF-16"),
        (b"a,b\n1,\0\n", "line 2 of .* must be text, found a NUL character"),
        (b"a,b\n" + b"1,2\n" * 50 + b'3,"' + b"4,5\n" * 9, "line 52 of .* a quote that is not closed"),
        (
            b"PK\x03\x04" + bytes(99),
            "must be text, found what is compressed, as a spreadsheet's own .* save the table as CSV",
        ),
        (gzip.compress(b"a,b\n1,2\n"), "found what is compressed"),
        (b'a,b\n"1"2,3\n', "line 2 of .* expected after"),
        (b"a,b\n1," + b"2" * 200_000, "line 2 of .* field larger than field limit"),
    ],
)
def test_what_is_wrong_with_a_text_is_told_by_its_line(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"(?s)(?=.*t\.csv).*{message}"):
        read_table(tmp_path / "t.csv")


def test_missing_files_and_folders_are_told(tmp_path):
    write(tmp_path / "mine.csv", "a\n")
    with pytest.raises(DataError, match=r"expected a table at .*none.csv, found mine.csv"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"expected a table at .*, found a folder"):
        read_table(tmp_path)


def test_missing_and_doubtful_columns_are_told(tmp_path):
    table = read_table(write(tmp_path / "t.csv", "Path,path,x\n1,2,3\n"))
    assert table.find("label") is None and table.find("X", "y") == "x"
    with pytest.raises(DataError, match=r"must have a column label or class, found 'Path', 'path', 'x'"):
        table.needed("label", "class")
    with pytest.raises(DataError, match=r"must have one column path or file, found Path, path"):
        table.find("path", "file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n,3\n", "'x' of .* must hold numbers, found nothing in line 3"),
        ("x;y\n1,5;2\n", r"found '1,5' in line 2 \(write its decimal point as one\)"),
        ("x,y\nTrue,2\n", "found 'True' in line 2"),
    ],
)
def test_what_is_no_number_is_told(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path / "t.csv", text)).numbers("x")


# ---- Parquet


def parquet(path, **columns):
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({name: column if isinstance(column, arrow.Array) else arrow.array(column)
                         for name, column in columns.items()})  # fmt: skip
    pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=2)
    return read_table(path)


def test_parquet_columns_are_read_as_texts_and_numbers(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    table = parquet(
        tmp_path / "t.PARQUET",
        Path=[" a.jpg", "b.jpg", None],
        label=arrow.array(["cat", None, "dog"]).dictionary_encode(),
        number=[1.0, None, 2.5],
        whole=[3, -1, None],
        coded=arrow.array([0.5, 1.5, 0.5], arrow.float32()).dictionary_encode(),
        half=arrow.array(np.array([1, 2, 3], np.float16)),
        flag=[True, False, True],
        raw=[b"x", b"\xc3\xa9", b""],
    )
    assert len(table) == 3 and table.line(2) == "row 2"
    texts = {name: table.column(name) for name in ("path", "LABEL", "number", "whole", "raw")}
    assert texts == {
        "path": ["a.jpg", "b.jpg", ""], "LABEL": ["cat", "", "dog"], "number": ["1", "", "2.5"],
        "whole": ["3", "-1", ""], "raw": ["x", "é", ""],
    }  # fmt: skip
    assert table.numbers("coded").tolist() == [0.5, 1.5, 0.5] and table.numbers("half").tolist() == [1, 2, 3]
    assert table.numbers("flag").tolist() == [1, 0, 1]
    for name, found in (("number", "found nothing in row 1"), ("path", "found 'a.jpg' in row 0")):
        with pytest.raises(DataError, match=rf"'{name}' of .* must hold numbers, {found}".replace("path", "Path")):
            table.numbers(name)


def test_parquet_is_known_by_its_content(tmp_path):
    parquet(tmp_path / "t.parquet", a=[1, 2])
    (tmp_path / "t.parquet").rename(tmp_path / "t.csv")
    assert read_table(tmp_path / "t.csv").numbers("a").tolist() == [1, 2]
    write(tmp_path / "t.parquet", "a,b\n1,2\n")
    with pytest.raises(DataError, match=r"t.parquet cannot be read as Parquet"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
def test_parquet_lists_are_rows_of_features(tmp_path, kind):
    arrow = pytest.importorskip("pyarrow")
    of = {"list": arrow.list_, "large_list": arrow.large_list, "fixed": lambda value: arrow.list_(value, 2)}[kind]
    values = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    table = parquet(tmp_path / "t.parquet", embedding=arrow.array(values, of(arrow.float32())))
    found = table.numbers("embedding")
    assert found.dtype == np.float32 and found.tolist() == values
    with pytest.raises(DataError, match=r"'embedding' of .* must hold texts, found .*list<"):
        table.column("embedding")
    for bad, message in [
        ([[1.0, 2.0], None, [3.0, 4.0]], "found nothing in row 1|Expected all lists to be of size"),  # older pyarrow
        ([[1.0, 2.0], [3.0, 4.0], [5.0, None]], "found nothing in row 2"),
        ([[1.0, 2.0], [3.0, 4.0], [5.0]], "found 2 entries in row 0 and 1 in row 2"),
    ]:
        if kind == "fixed" and len(bad[2]) == 1:
            continue
        with pytest.raises(DataError, match=message):
            parquet(tmp_path / "t.parquet", embedding=arrow.array(bad, of(arrow.float64()))).numbers("embedding")
    table = parquet(tmp_path / "t.parquet", embedding=arrow.array([["a", "b"]], of(arrow.string())))
    with pytest.raises(DataError, match=r"must hold numbers, found .*list<"):
        table.numbers("embedding")


def test_parquet_of_a_structure_is_refused_where_it_is_asked_for(tmp_path):
    table = parquet(tmp_path / "t.parquet", x=[1.0], more=[{"a": 1}])
    assert table.numbers("x").tolist() == [1]
    for read in (table.column, table.numbers):
        with pytest.raises(DataError, match=r"'more' of .* found struct<a: int64>"):
            read("more")


@pytest.mark.filterwarnings("ignore")
def test_damaged_tables_are_told_as_such(tmp_path):
    parquet(tmp_path / "t.parquet", name=["a.jpg", "b.jpg", "c.jpg"], x=[1.0, 2.0, 3.0], e=[[1.0], [2.0], [3.0]])
    write(tmp_path / "t.csv", 'name,x\n"a ""1"".jpg",1\nb.jpg,2\n' * 3)
    write(tmp_path / "u.csv", 'name;x\n"é.jpg";1\nb.jpg;2\n' * 3, "utf-16")
    rng = np.random.default_rng(0)
    for name in ("t.parquet", "t.csv", "u.csv"):
        content, refused = (tmp_path / name).read_bytes(), 0
        for i in range(200):
            damaged, at = bytearray(content), int(rng.integers(len(content)))
            if i % 3 == 0:
                del damaged[at:]
            elif i % 3 == 1:
                damaged[at] ^= int(rng.integers(1, 256))
            else:
                damaged[at:at] = rng.bytes(3)
            (tmp_path / name).write_bytes(damaged)
            try:
                table = read_table(tmp_path / name)
                assert len(table.column("name")) == len(table.numbers("x")) == len(table)
                if table.find("e"):
                    assert table.numbers("e").shape == (len(table), 1)
            except DataError:
                refused += 1
        assert refused > 50, name


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("ssdml_fast._extras._is_installed", lambda module: False)
    (tmp_path / "t.parquet").touch()
    with pytest.raises(ImportError, match=r"t.parquet needs pyarrow: pip install 'ssdml-fast\[tables\]'"):
        read_table(tmp_path / "t.parquet")
