"""Mutations of real files, each a function of a seed, so that a seed identifies a case."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 2**31, 2**63, -(2**63), 10**400, 1e308, -0.5, 0.1),
    *("", "a", "../x", "/etc/passwd", "http://127.0.0.1:9/x", "\x1b]0;x\x07", "\u202e", "a" * 5000),
    *([], {}, [[]], [0], ["a"], {"a": 1}, [[[[[[[[]]]]]]]], "${seed}", "{{ 1 }}", float("nan")),
    *("os.system", "trainer.metrics.hub.HubMetric", "NaN", "1e400", "\u0000", "\ud800", 3.7),
)
"""Replacements of values in a file."""


def mutate(path: Path, dice: random.Random) -> str:
    """Change a file in place; returns what was done, in a few words."""
    kind = KINDS.get(path.suffix, _bytes)
    if dice.random() < 0.25:
        kind = _bytes
    data = path.read_bytes()
    try:
        changed, said = kind(data, dice)
    except (ValueError, LookupError, TypeError):
        changed, said = _bytes(data, dice)
    path.write_bytes(changed)
    return said


def hostile_text(dice: random.Random) -> str:
    """A text that an environment variable may hold."""
    value = dice.choice([v for v in VALUES if isinstance(v, (str, int, float))])
    return str(value).replace("\0", "").encode(errors="replace").decode()[:2000]


def _bytes(data: bytes, dice: random.Random) -> tuple[bytes, str]:
    """Bytes flipped, cut, doubled, inserted or set to extremes."""
    changed = bytearray(data)
    at = dice.randrange(len(changed) or 1)
    some = dice.choice([1, 2, 4, 8, 64, 1024])
    match dice.randrange(7):
        case 0:
            for _ in range(dice.choice([1, 1, 2, 8])):
                place = dice.randrange(len(changed) or 1)
                changed[place : place + 1] = bytes([dice.randrange(256)])
            return bytes(changed), f"flipped about {at}"
        case 1:
            return data[:at], f"cut at {at}"
        case 2:
            changed[at : at + some] = changed[at : at + some] * 2
        case 3:
            changed[at:at] = dice.randbytes(some)
        case 4:
            changed[at : at + some] = b"\xff" * some
        case 5:
            changed[at : at + some] = bytes(some)
        case _:
            changed[at : at + 8] = struct.pack("<Q", dice.choice([2**63 - 1, 2**40, 2**31, 0]))
    return bytes(changed), f"changed {some} bytes at {at}"


def _json(data: bytes, dice: random.Random) -> tuple[bytes, str]:
    value, said = _changed(json.loads(data), dice)
    return json.dumps(value).encode(), said


def _json_lines(data: bytes, dice: random.Random) -> tuple[bytes, str]:
    lines = data.splitlines()
    at = dice.randrange(len(lines))
    lines[at], said = _json(lines[at], dice)
    return b"\n".join(lines) + b"\n", f"line {at}: {said}"


def _yaml(data: bytes, dice: random.Random) -> tuple[bytes, str]:
    import yaml

    value, said = _changed(yaml.safe_load(data), dice)
    return json.dumps(value).encode(), said  # JSON is YAML


def _safetensors(data: bytes, dice: random.Random) -> tuple[bytes, str]:
    """The header changed, with the right length."""
    size = struct.unpack("<Q", data[:8])[0]
    header, said = _json(data[8 : 8 + size], dice)
    return struct.pack("<Q", len(header)) + header + data[8 + size :], f"header: {said}"


def _numbers(data: bytes, dice: random.Random) -> tuple[bytes, str]:
    """Numbers in tensors become NaN, infinite or huge."""
    size = struct.unpack("<Q", data[:8])[0]
    changed = bytearray(data)
    at = 8 + size + 4 * dice.randrange(max(1, (len(data) - 8 - size) // 4))
    value = dice.choice([float("nan"), float("inf"), 1e38, -1e38])
    changed[at : at + 4] = struct.pack("<f", value)
    return bytes(changed), f"number {at} becomes {value}"


def _tensors(data: bytes, dice: random.Random) -> tuple[bytes, str]:
    return dice.choice([_safetensors, _safetensors, _numbers])(data, dice)


def _lines(data: bytes, dice: random.Random) -> tuple[bytes, str]:
    lines = data.split(b"\n")
    at = dice.randrange(len(lines))
    odd = (b'"', b",,,,", b"\t" * 9, b"\x00", b"\xff\xfe", b"x" * 100_000, b"", b"=1+1", b"\x1b[2J")
    lines[at] = dice.choice([lines[at] + dice.choice(odd), dice.choice(odd), lines[at] * 2])
    return b"\n".join(lines), f"line {at}"


def _changed(value: Any, dice: random.Random) -> tuple[Any, str]:
    """One entry of nested JSON replaced, dropped, doubled or renamed."""
    where: list[Any] = []
    node = value
    parent: Any = None
    while isinstance(node, (dict, list)) and node and (not where or dice.random() < 0.8):
        key = dice.choice(list(node)) if isinstance(node, dict) else dice.randrange(len(node))
        parent, node = node, node[key]
        where.append(key)
    if parent is None:
        return dice.choice(VALUES), "all of it"
    new = dice.choice(VALUES)
    match dice.randrange(6):
        case 0 if isinstance(parent, dict):
            del parent[where[-1]]
        case 1 if isinstance(parent, dict):
            parent[str(dice.choice(VALUES))[:50]] = parent.pop(where[-1])
        case 2 if isinstance(node, (int, float)) and not isinstance(node, bool):
            parent[where[-1]] = dice.choice([node + 1, -node, node * 1000, node / 3, 2**40])
        case 3 if isinstance(parent, list):
            parent.extend(parent[:50])
        case _:
            parent[where[-1]] = new
    return value, f"{'.'.join(map(str, where))[:80]} becomes {new!r:.40}"


KINDS: dict[str, Callable[[bytes, random.Random], tuple[bytes, str]]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".yaml": _yaml,
    ".safetensors": _tensors,
    ".csv": _lines,
    ".tsv": _lines,
    ".txt": _lines,
    ".conll": _lines,
    ".jinja": _lines,
}
