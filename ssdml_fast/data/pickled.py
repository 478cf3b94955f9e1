"""Pickles of plain data, read without running them: the few calls that they need are known here, and not made."""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

from .dataset import DataError


@dataclass(frozen=True)
class _Name:
    """What a pickle names, to call it or to give it to what it calls."""

    module: str
    name: str


_NDARRAY, _DTYPE, _ENCODE = _Name("numpy", "ndarray"), _Name("numpy", "dtype"), _Name("_codecs", "encode")
_RECONSTRUCT = (_Name("numpy.core.multiarray", "_reconstruct"), _Name("numpy._core.multiarray", "_reconstruct"))
_BYTES = (_Name("__builtin__", "bytes"), _Name("builtins", "bytes"))
_BYTE_STATE = (3, "|", None, None, None, -1, -1, 0)  # of the dtype uint8, as every NumPy writes it
_MARK, _BYTE, _BEGUN = object(), object(), object()  # on the stack; the dtype uint8; an array without its content


def load_pickled(data: bytes, name: str) -> Any:
    """Read a pickle of dictionaries, lists, tuples, bytes, texts, integers and uint8 arrays, of protocols 2 to 4.

    Parameters
    ----------
    data : bytes
        The pickle, as Python 2 or 3 and any NumPy write one. Texts of Python 2 become bytes.
    name : str
        What to call it in an error message.

    Returns
    -------
    object
        What was pickled.

    Raises
    ------
    DataError
        If it is damaged or holds anything else, or if what is made of its bytes takes more memory than they explain.

    Notes
    -----
    Python's own ``pickle`` cannot be made safe by the names that it may find: ``numpy.dtype`` alone can be given a
    state by which NumPy takes bytes of the file for addresses. Here bytes become arrays of bytes, and nothing else.
    A pickle can say one thing many times over, and nest tuples without end: dictionaries are by texts and integers
    alone, as the hash of such a tuple takes forever or all of the stack.

    Examples
    --------
    >>> import pickle
    >>> batch = {b"data": np.arange(3, dtype=np.uint8), b"labels": [7, 8, 9]}
    >>> load_pickled(pickle.dumps(batch, protocol=2), "batch")
    {b'data': array([0, 1, 2], dtype=uint8), b'labels': [7, 8, 9]}
    """
    try:
        return _load(data)
    except MemoryError:
        raise
    except Exception as error:  # a stack that is empty, a list that is none, a text that is cut off, ...
        raise DataError(f"{name} cannot be read as a pickle of plain data and uint8 arrays: {error}") from None


def _load(data: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    room = 2 * len(data)  # for what is made of its bytes: a text's once more, and an array's
    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                break
            case "MARK":
                stack.append(_MARK)
            case "NONE":
                stack.append(None)
            case "NEWFALSE" | "NEWTRUE":
                stack.append(opcode.name == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "BININT" | "BININT1" | "BININT2" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES":
                stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument.encode("latin-1"))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(opcode.name[-1])
                stack[-n:] = [tuple(stack[-n:])]
            case "TUPLE":
                stack.append(tuple(_to_mark(stack)))
            case "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            case "APPENDS":
                values = _to_mark(stack)
                stack[-1].extend(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set(stack[-1], [key], [value])
            case "SETITEMS":
                values = _to_mark(stack)
                _set(stack[-1], values[::2], values[1::2])
            case "GLOBAL":
                stack.append(_known(*argument.split(" ")))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_known(module, name))
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_reduced(called, arguments))
                room -= len(stack[-1]) if isinstance(stack[-1], bytes) else 0
            case "BUILD":
                state, begun = stack.pop(), stack.pop()
                stack.append(_built(begun, state))
                room -= stack[-1].nbytes if isinstance(stack[-1], np.ndarray) else 0
            case other:
                raise ValueError(f"it needs {other}, which plain data do not")
        if room < 0:
            raise ValueError("more is made of its bytes than it holds; it may be malicious and is not read")
    (content,) = stack
    return content


def _to_mark(stack: list[Any]) -> list[Any]:
    """Take what lies above the last mark, and the mark, off the stack."""
    values = []
    while (value := stack.pop()) is not _MARK:
        values.append(value)
    return values[::-1]


def _set(items: Any, keys: list[Any], values: list[Any]) -> None:
    if not isinstance(items, dict) or not all(type(key) in (bytes, str, int) for key in keys):
        raise ValueError("only dictionaries may have items, by texts or integers")
    items.update(zip(keys, values, strict=True))


def _known(module: Any, name: Any) -> _Name:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise ValueError(f"what it needs must be named by texts, found {_types((module, name))}")
    named = _Name(module, name)
    if named not in (_NDARRAY, _DTYPE, _ENCODE, *_RECONSTRUCT, *_BYTES):
        raise ValueError(f"it must not need {module[:80]}.{name[:80]}; it may be malicious and is not read")
    return named


def _reduced(called: Any, arguments: Any) -> Any:
    """Return what a call would."""
    if not isinstance(arguments, tuple):
        raise ValueError(f"arguments of a call must be a tuple, found {type(arguments).__name__}")
    if called in _BYTES and arguments == ():  # none, and below some, as Python 3 writes them by protocol 2
        return b""
    if called == _ENCODE:
        text, encoding = arguments
        if encoding == "latin1":
            return text.encode("latin-1")
    elif called == _DTYPE:
        if _text(arguments[0]) == "u1":
            return _BYTE
    elif called in _RECONSTRUCT and arguments[0] == _NDARRAY:
        return _BEGUN
    raise ValueError(f"its arrays must be of type uint8, found a call with {_types(arguments)}")


def _built(begun: Any, state: Any) -> Any:
    """Return what was begun, completed."""
    if not isinstance(state, tuple):
        raise ValueError(f"the state of an array or type must be a tuple, found {type(state).__name__}")
    if begun is _BYTE and tuple(map(_text, state)) == _BYTE_STATE:
        return _BYTE
    if begun is _BEGUN:
        _, shape, dtype, by_columns, content = state
        if dtype is _BYTE and isinstance(content, bytes) and all(type(n) is int and n >= 0 for n in shape):
            return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C").copy()
    raise ValueError(f"its arrays must be of type uint8, found a state of {_types(state)}")


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _types(values: tuple[Any, ...]) -> str:
    """Name the types in a tuple: its values may be long, or hold themselves."""
    return ", ".join(type(value).__name__ for value in values[:8])
