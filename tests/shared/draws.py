"""What property tests draw, and how much: valid files with something wrong in them.

In the plain values of a valid file a node is left out, doubled, swapped with another or replaced by
something that nobody expects there, down to texts that plain values cannot say (tags, anchors,
5,000 lists in each other). One in twelve has another encoding or other ends of lines, or is cut.
A parser keeps a promise for any bytes.
"""

import copy
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from evomerge.errors import EvomergeError

USUAL = 100
"""Examples of a property test that names no number, in `make test`."""


def draws(number: int) -> int:
    """Return so many examples for `make test`, and ten times as many for `make test-long`."""
    return number * settings.default.max_examples // USUAL


def few(names: Iterable[Any], usual: Iterable[Any]) -> list[Any]:
    """Return names as parameters of a test; all but the usual ones are for `make test-long`."""
    kept = set(usual)
    return [name if name in kept else pytest.param(name, marks=pytest.mark.long) for name in names]


LONGEST_SENTENCE = 1000

FUZZ = settings(
    max_examples=draws(120),
    database=None,
    phases=[Phase.generate],  # the files are small: shrinking them costs more than it shows
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

_PLAIN = [
    None, True, False, 0, 1, -1, 7, 2**31, 2**63, 2**200, 0.5, -0.0, 1e308, "", "x", "0.5", "1e-3",
    "*", "é", "²", "a\nb", "a b", "." * 40, "/", "..", "word" * 300, "x" * 100_000,
    "\x1b[31mred", "\u202e", "\r\n", "[/red]", "<b>", [], {}, [[]], [{}], {"": 0},
    [0], [None], ["x"], {"x": "x"}, [1, 2], [0.5, -0.5], [[[[["x"]]]]], "zoo:base", "union",
]  # fmt: skip

_JSON_TEXTS = [
    "NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 350, "9" * 5000, '"\\ud800"',
    '"\\udc00x"', '"a\\u0000b"', '"\\u0007"', "[" * 5000 + "]" * 5000,
    '{"a":' * 5000 + "1" + "}" * 5000, "[" * 400 + "]" * 400,
]  # fmt: skip

_YAML_TEXTS = [
    *_JSON_TEXTS, ".nan", ".inf", "2001-01-01", "2001-01-01 10:00:00", "!!timestamp x",
    "!!binary aGVsbG8=", "!!binary ä", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]",
    "!!python/object/apply:os.getcwd []", "!unknown {a: 1}", "!!int x", "!!float ''", "!!int ''",
    "!!bool maybe", "!!null x", "!!str 5", "!!str [1]", "!!seq {a: 1}", "!!map [1]", "!!map x",
    "0b_", "1:60:59", "0x" + "f" * 6000, "&loop [*loop]", "&loop {a: *loop}", "*nothing",
    "{? [1]: 2}", "{? {a: 1}: 2}", "{1: 2, 1.5: 3, true: 4, null: 5}", "{a: 1, a: 2}", "{<<: 1}",
    "{<<: [1]}", "{<<: {a: 1}, a: 2}", "=", "<<", "{=: 1}", '"\\U99999999"', '"\\UFFFFFFFF"',
    "[&b0 [x], " + ", ".join(f"&b{i + 1} [{', '.join(9 * [f'*b{i}'])}]" for i in range(8)) + "]",
]  # fmt: skip

_CHANGES = ["replace", "replace", "drop", "double", "swap", "wrap", "key", "twice"]
_SLOT = re.compile(r'"@@(\d+)@@"')


def value_or_error(call: Callable[[], Any]) -> Any:
    """Return what a parser makes of its text; None where it says what is wrong."""
    try:
        return call()
    except EvomergeError as error:
        sentence = str(error)  # a line for each mistake
        assert all(0 < len(line) < LONGEST_SENTENCE for line in sentence.split("\n")), sentence[
            :200
        ]
        assert all(map(str.isprintable, sentence.split("\n"))), sentence
        sentence.encode()
        return None


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = list(value) if isinstance(value, dict) else []
    if isinstance(value, list):
        keys = list(range(len(value)))
    return [path, *(place for key in keys for place in _places(value[key], (*path, key)))]


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


@st.composite
def _mutated(draw: st.DrawFn, valid: Any, texts: list[str]) -> str:
    data = copy.deepcopy(valid)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        places = _places(data)
        place = places[draw(st.integers(0, len(places) - 1))]
        slot = st.integers(0, len(texts) - 1).map(lambda i: f"@@{i}@@")
        strange = st.one_of(st.sampled_from(_PLAIN), slot).map(copy.deepcopy)
        if not place:
            if draw(st.integers(0, 9)) == 0:
                return _text(draw(strange), texts)
            continue
        above, key = _at(data, place[:-1]), place[-1]
        match draw(st.sampled_from(_CHANGES)):
            case "replace":
                above[key] = draw(strange)
            case "drop":
                del above[key]
            case "double" if isinstance(above, list):
                above.insert(key, copy.deepcopy(above[key]))
            case "swap":
                above[key] = copy.deepcopy(_at(data, draw(st.sampled_from(places))))
            case "wrap":
                above[key] = draw(st.sampled_from([[above[key]], {"x": above[key]}]))
            case "key" if isinstance(above, dict):
                name = draw(st.sampled_from(["", "x", "²", "0", "00", "a.b", "x" * 900]) | slot)
                above[name] = above.pop(key)
            case "twice" if isinstance(above, dict):
                above[f"@@twice@@{key}"] = draw(strange)
    return _text(data, texts)


def _text(data: Any, texts: list[str]) -> str:
    written = json.dumps(data, indent=1).replace("@@twice@@", "")
    return _SLOT.sub(lambda found: texts[int(found[1])], written)


@st.composite
def _rewritten(draw: st.DrawFn, valid: str) -> bytes:
    """Encode a text in another way, end its lines in another way, or cut it."""
    match draw(st.sampled_from(["encoding", "mark", "returns", "cut"])):
        case "encoding":
            return valid.encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-16-le", "cp037"])))
        case "mark":
            return b"\xef\xbb\xbf" + valid.encode()
        case "returns":
            return valid.replace("\n", draw(st.sampled_from(["\r\n", "\r", "\u2028"]))).encode()
        case _:
            return valid.encode()[: draw(st.integers(0, len(valid)))]


@st.composite
def _damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Cut, double, flip or insert bytes."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 12)))
        match draw(st.sampled_from(["cut", "double", "flip", "insert"])):
            case "cut":
                del data[start:stop]
            case "double":
                data[start:start] = data[start:stop]
            case "flip" if start < len(data):
                data[start] ^= draw(st.integers(1, 255))
            case _:
                data[start:start] = draw(st.binary(max_size=4) | st.sampled_from(_INSERTED))
    return bytes(data)


_INSERTED = [
    b"\0", b"[" * 5000, b"\t", b"%", b"&a ", b"*a", b"!!", b"? ", b"- ", b"---\n", b"...", b"{",
    b"}", b"\xed\xa0\x80", b"\xff\xfe", b"\xef\xbb\xbf", b": ", b"|", b">", b"'", b'"', b"\\",
]  # fmt: skip


def yaml_files(valid: Any) -> st.SearchStrategy[bytes]:
    """Bytes near a YAML file that holds `valid`, and any bytes."""
    return _files(valid, _YAML_TEXTS)


def json_files(valid: Any) -> st.SearchStrategy[bytes]:
    """Bytes near a JSON file that holds `valid`, and any bytes."""
    return _files(valid, _JSON_TEXTS)


def _files(valid: Any, texts: list[str]) -> st.SearchStrategy[bytes]:
    near = _mutated(valid, texts)
    written = near.map(str.encode)
    rewritten = near.flatmap(_rewritten) | _rewritten(json.dumps(valid, indent=1))
    bytewise = damaged(json.dumps(valid).encode())
    return st.one_of(*[written] * 8, bytewise, bytewise, bytewise, rewritten)


def damaged(valid: bytes) -> st.SearchStrategy[bytes]:
    """The bytes of a file with some of them changed, and any bytes."""
    return st.one_of(_damaged(valid), _damaged(valid), _damaged(valid), st.binary(max_size=60))
