"""Tables, as spreadsheets and data frames are written: CSV, TSV and Parquet, read by column."""

from __future__ import annotations

import csv
import io
import os
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._extras import require
from ..exceptions import first_line
from .dataset import DataError
from .files import existing

if TYPE_CHECKING:
    from pyarrow import ChunkedArray

SUFFIXES = (".csv", ".tsv", ".parquet", ".pq")
ENCODINGS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))  # by byte order mark
ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b")  # what zip and gzip begin with
PARQUET = b"PAR1"
BLOCK = 4096  # rows that are packed together
BLANK = [""]  # the fields of a line of blanks
SAMPLE = 20  # lines by which the delimiter is chosen


class Table(ABC):
    """A table of named columns.

    Attributes
    ----------
    path : Path
        Its file, for messages.
    columns : tuple of str
        Names of the columns in the file's order, without the blanks around them. No two are equal, but that some may
        have no name ("").

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "my.csv").write_text("Path;Label\\r\\na.jpg;cat\\r\\n\\r\\nb.jpg;\\r\\n")
    ...     table = read_table(f"{folder}/my.csv")
    >>> table.columns, len(table), table.column("label"), table.line(1)
    (('Path', 'Label'), 2, ['cat', ''], 'line 4')
    """

    path: Path
    columns: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def line(self, row: int) -> str:
        """Say where in the file a row is, for messages: ``"line 7"`` of a text, ``"row 5"`` (from 0) of Parquet."""

    def find(self, *names: str) -> str | None:
        """Return the name of the column that has one of `names`, in any letter case; None if there is none.

        Raises
        ------
        DataError
            If there are several.
        """
        wanted = {name.casefold() for name in names}
        found = [name for name in self.columns if name.casefold() in wanted]
        if len(found) > 1:
            raise DataError(f"{self.path} must have one column {' or '.join(names)}, found {', '.join(found)}")
        return found[0] if found else None

    def needed(self, *names: str) -> str:
        """Return the name of the column that has one of `names`, as :meth:`find`, of which there must be one.

        Raises
        ------
        DataError
            If there is none, or several; the message names the columns that there are.
        """
        if (name := self.find(*names)) is None:
            shown = ", ".join(map(repr, self.columns[:10])) + f" and {len(self.columns) - 10} more" * (
                len(self.columns) > 10
            )
            raise DataError(f"{self.path} must have a column {' or '.join(names)}, found {shown}")
        return name

    def column(self, name: str) -> list[str]:
        """Return the texts of a column, without the blanks around them.

        Parameters
        ----------
        name : str
            The column, in any letter case.

        Returns
        -------
        list of str
            One of each row; "" where there is nothing (in Parquet: null or NaN). Whole numbers have no decimal point.

        Raises
        ------
        DataError
            If there is no such column, or it is of lists or other nested values.
        """
        return self._texts(self._at(name))

    def numbers(self, name: str) -> np.ndarray:
        """Return the numbers of a column.

        Parameters
        ----------
        name : str
            The column, in any letter case.

        Returns
        -------
        (N,) array
            Numbers, NaN and infinity among them where the file says so; (N, d) of a Parquet column of lists, which must
            all have d entries.

        Raises
        ------
        DataError
            If there is no such column, or what is in it is no number; the message says where.
        """
        return self._numbers(self._at(name))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.columns)}

    def _at(self, name: str) -> int:
        return self._index[name if name in self._index else self.needed(name)]

    @abstractmethod
    def _texts(self, i: int) -> list[str]: ...

    def _numbers(self, i: int) -> np.ndarray:
        return self._parsed(i, self._texts(i))

    def _parsed(self, i: int, texts: Sequence[str], start: int = 0) -> np.ndarray:
        """The numbers that texts are; `start` is the row of the first, for the message."""
        try:
            return np.fromiter(map(float, texts), np.float64, len(texts))
        except ValueError:
            wrong = next(row for row, text in enumerate(texts) if not _is_number(text))
        text = texts[wrong].strip()
        found = repr(text[:80]) if text else "nothing"
        hint = " (write its decimal point as one)" if re.fullmatch(r"[-+]?\d+,\d+", text) else ""
        raise DataError(
            f"column {self.columns[i]!r} of {self.path} must hold numbers, found {found} in {self.line(start + wrong)}"
            f"{hint}"
        )


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a table.

    Parameters
    ----------
    path : str or path
        A Parquet file, by its suffix (``.parquet`` or ``.pq``) or its content, else a text: UTF-8, or UTF-16 with its
        byte order mark; fields are separated by commas, semicolons or tabs, whichever its first lines show; quoted by
        ``"``. The first line has the columns' names. Blank lines are passed over.

    Returns
    -------
    Table
        In memory, about as large as the text or the decoded Parquet file is.

    Raises
    ------
    DataError
        If there is no such file, it is damaged or empty, two columns have one name, or a line has more or fewer fields
        than the first; the message names the line.
    ImportError
        If a Parquet file is to be read and pyarrow is not installed.

    Notes
    -----
    Time O(bytes). A text is parsed by Python's csv, strictly: what follows a closing quote must be a separator. A
    ``sep=;`` before the names, which some spreadsheets write, is obeyed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "my.tsv").write_text("x1\\tx2\\n1\\t2.5\\n3\\t4e2\\n")
    ...     read_table(f"{folder}/my.tsv").numbers("x2")
    array([  2.5, 400. ])
    """
    path = existing(Path(path), "a table")
    return _ParquetTable(path) if path.suffix.lower() in (".parquet", ".pq") or _is_parquet(path) else _TextTable(path)


class _TextTable(Table):
    """Each column lies as a few long texts, its values joined by NUL, which no text of a table may hold."""

    def __init__(self, path: Path) -> None:
        self.path = path
        data, encoding = _checked(path)
        named = re.fullmatch(r"sep=([,;\t])\s+", _lines(data, encoding).readline())
        delimiter = named[1] if named else _delimiter(data, encoding, path)
        records = _records(data, encoding, delimiter, path)
        if named:
            next(records)
        names = next((fields for _, fields in records if fields != BLANK), [])
        if not any(name.strip() for name in names):
            raise DataError(f"{path} must begin with a line of column names, found {'none' if names else 'nothing'}")
        self.columns = _distinct([name.strip() for name in names], path)
        self._packed: list[list[str]] = [[] for _ in names]
        self._lines = array("q")
        rows: list[list[str]] = []
        for line, fields in records:
            if fields == BLANK and len(names) > 1:
                continue
            if len(fields) != len(names):
                raise DataError(
                    f"line {line} of {path} must have {len(names)} fields, as its first line has, found {len(fields)}"
                )
            self._lines.append(line)
            rows.append(fields)
            if len(rows) == BLOCK:
                self._pack(rows)
        self._pack(rows)

    def _pack(self, rows: list[list[str]]) -> None:
        for packed, values in zip(self._packed, zip(*rows, strict=True), strict=False):
            packed.append("\0".join(values))
        rows.clear()

    def __len__(self) -> int:
        return len(self._lines)

    def line(self, row: int) -> str:
        return f"line {self._lines[row]}"

    def _texts(self, i: int) -> list[str]:
        return [text.strip() for packed in self._packed[i] for text in packed.split("\0")]

    def _numbers(self, i: int) -> np.ndarray:
        blocks = [self._parsed(i, packed.split("\0"), BLOCK * block) for block, packed in enumerate(self._packed[i])]
        return np.concatenate([np.empty(0), *blocks])


class _ParquetTable(Table):
    def __init__(self, path: Path) -> None:
        require(f"the Parquet file {path}", "pyarrow", extra="tables")
        from pyarrow import parquet  # deferred: optional

        self.path = path
        try:
            with open(path, "rb") as file:
                table = parquet.ParquetFile(file).read(use_threads=False)
            table.validate(full=True)
        except MemoryError:
            raise
        except Exception as error:  # pyarrow raises errors of many kinds of a damaged file
            raise DataError(f"{path} cannot be read as Parquet: {first_line(error)}") from None
        self.columns = _distinct([name.strip() for name in table.column_names], path)
        self._table = table

    def __len__(self) -> int:
        return self._table.num_rows

    def line(self, row: int) -> str:
        return f"row {row}"

    def _texts(self, i: int) -> list[str]:
        from pyarrow import types

        column = self._table.column(i)
        if types.is_nested(column.type):
            raise DataError(f"column {self.columns[i]!r} of {self.path} must hold texts, found {column.type}")
        try:
            return [_text(value) for value in column.to_pylist()]
        except (ArithmeticError, ValueError) as error:  # bytes that are no UTF-8, a date out of Python's range
            raise DataError(
                f"column {self.columns[i]!r} of {self.path} cannot be read as texts: {first_line(error)}"
            ) from None

    def _numbers(self, i: int) -> np.ndarray:
        from pyarrow import types

        column = self._table.column(i)
        if types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if any(is_list(column.type) for is_list in (types.is_list, types.is_large_list, types.is_fixed_size_list)):
            return self._lists(i, column)
        if not _is_numeric(column.type):
            return super()._numbers(i)
        self._check_no_null(i, column)
        values = column.to_numpy()
        return values.astype(np.float64) if values.dtype.kind == "O" else values  # decimals

    def _lists(self, i: int, column: ChunkedArray) -> np.ndarray:
        """The entries of a column of lists, a row of each."""
        if not _is_numeric(column.type.value_type):
            raise DataError(f"column {self.columns[i]!r} of {self.path} must hold numbers, found {column.type}")
        self._check_no_null(i, column)
        from pyarrow import compute

        lengths = compute.list_value_length(column).to_numpy()
        width = int(lengths[0]) if len(lengths) else 0
        if (lengths != width).any():
            row = int(np.flatnonzero(lengths != width)[0])
            raise DataError(
                f"column {self.columns[i]!r} of {self.path} must hold lists of one length, found {width} entries in "
                f"row 0 and {int(lengths[row])} in row {row}"
            )
        entries = compute.list_flatten(column)
        self._check_no_null(i, entries, max(width, 1))
        values = entries.to_numpy()
        return (values.astype(np.float64) if values.dtype.kind == "O" else values).reshape(len(lengths), width)

    def _check_no_null(self, i: int, column: ChunkedArray, width: int = 1) -> None:
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy())[0]) // width
            raise DataError(f"column {self.columns[i]!r} of {self.path} must hold numbers, found nothing in row {row}")


def _is_parquet(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(PARQUET)) == PARQUET
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _checked(path: Path) -> tuple[bytes, str]:
    """What is in a file of text, and its encoding."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if data.startswith(ARCHIVES):
        raise DataError(
            f"{path} must be text, found what is compressed, as a spreadsheet's own format is: save the table as CSV"
        )
    encoding = next((name for mark, name in ENCODINGS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "ignore").count("\n") + 1
        name = encoding.removesuffix("-sig").upper()
        raise DataError(
            f"line {line} of {path} must be {name}, found bytes that are not; save the table as UTF-8"
        ) from None
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise DataError(f"line {line} of {path} must be text, found a NUL character")
    return data, encoding


def _lines(data: bytes, encoding: str) -> io.TextIOWrapper:
    """The lines of a text, none of it copied but what is read; StringIO would take four bytes a character."""
    return io.TextIOWrapper(io.BytesIO(data), encoding, newline="")


def _delimiter(data: bytes, encoding: str, path: Path) -> str:
    """The one that divides the first line, and those after it alike; into most fields."""

    def fit(delimiter: str) -> tuple[bool, int, bool]:
        widths = []
        try:
            for _, fields in islice(_records(data, encoding, delimiter, path), SAMPLE):
                widths += [len(fields)] if fields != BLANK else []
        except DataError:  # told when the table is read
            widths += [0]
        alike = len(set(widths)) == 1
        return alike and widths[0] > 1, widths[0] if widths else 0, alike

    return max("\t,;" if path.suffix.lower() == ".tsv" else ",\t;", key=fit)


def _records(data: bytes, encoding: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line and the fields of each record that is not empty."""
    reader = csv.reader(_lines(data, encoding), delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            found = "a quote that is not closed" if "unexpected end" in str(error) else str(error)
            raise DataError(f"line {line} of {path} cannot be read: {found}") from None
        if fields is None:
            return
        if fields:
            yield line, fields


def _distinct(names: list[str], path: Path) -> tuple[str, ...]:
    if twice := [name for i, name in enumerate(names) if name and name in names[:i]]:
        raise DataError(f"{path} must have columns of different names, found {twice[0]!r} twice")
    return tuple(names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_numeric(kind: Any) -> bool:
    from pyarrow import types

    return any(is_kind(kind) for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal))


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
