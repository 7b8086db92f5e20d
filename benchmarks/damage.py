"""Damage to bytes, texts, values and files, at random: what `benchmarks/fuzzing.py` does to each kind of file."""

import os
import random
import re
from pathlib import Path
from typing import Any

from apical import rules

# Pieces that are put into files of bytes and of text.
BYTES = [b"\0" * 8, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80" * 3, b"PK\x05\x06", b"\x1f\x8b\x08", b"(", b"\n", b"'"]
TEXTS = [
    *("true", "false", "nan", "inf", "NaN", "-1", "0", "1e999", "9" * 400, "0.5", "{}", "[]", "[1, 2]", "null", "None"),
    *('""', '"x"', "'", '"""', "[[", "]", "{a = 1}", "[" * 3000, "\n[optimizer]\n", "\x00", "\ud7ff", "#", "=", "\\"),
]
VALUES = [
    *(True, False, -1, 0, 1, 7, 10**6, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "None", "true", "none", "mlp:4", "mlp:-1", "mlp:" + "9" * 30, "resnet18", "npz:", "npz:/", "cpu"),
    *("own:", "adam", "split", "replay", "a" * 5000, "\n", "../..", "~", "é", "\x7f", ":", "x.py:f", "/dev/zero"),
    *([], [[]], [1, "a"], {}, {"name": "sgd"}, {"name": 3}, {"a": {"b": {"c": 1}}}, ["x"] * 300),
]


def damaged(content: bytes, chance: random.Random, pieces: list[bytes] = BYTES) -> bytes:
    """The bytes after one to three changes: of a bit or a byte, lost, doubled, put in, cut off, zeroed, exchanged."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        start, length = chance.randrange(len(content) + 1), chance.choice((1, 1, 2, 4, 16, 200))
        end = min(len(content), start + length)
        match chance.randrange(8):
            case 0 if start < len(content):
                content = content[:start] + bytes([content[start] ^ 1 << chance.randrange(8)]) + content[start + 1 :]
            case 1:
                content = content[:start] + chance.randbytes(end - start) + content[end:]
            case 2:
                content = content[:start] + content[end:]
            case 3:
                content = content[:end] + content[start:]
            case 4:
                content = content[:start] + chance.choice(pieces) + content[start:]
            case 5:
                content = content[:start]
            case 6:
                content = content[:start] + bytes(end - start) + content[end:]
            case _:
                content = content[:start] + chance.choice(pieces) + content[end:]
    return content


def damaged_text(content: str, chance: random.Random) -> bytes:
    """A text in which a number, a word or a quoted text became another one; or one that is damaged as bytes are."""
    if chance.random() < 0.3:
        return damaged(content.encode(), chance, [text.encode() for text in TEXTS])
    digits = list(re.finditer(r"[0-9]", content))
    if digits and chance.random() < 0.5:
        number = chance.choice(digits)
        return (content[: number.start()] + chance.choice("0123456789.") + content[number.end() :]).encode()
    words = list(re.finditer(r'"[^"]*"|[\w.+-]+|[\[\]{}=:,\n]', content))
    word = chance.choice(words)
    other = chance.choice([chance.choice(TEXTS), chance.choice(words).group(), repr(chance.choice(VALUES))])
    return (content[: word.start()] + other + content[word.end() :]).encode()


def odd(usual: object, chance: random.Random) -> Any:
    """A value in place of a usual one: near it, or anything."""
    if chance.random() < 0.4:
        return chance.choice(VALUES)
    match usual:
        case bool():
            return not usual
        case int() | float():
            return chance.choice((usual + 1, usual * 2, usual / 2, -usual, usual * 0, 1.5, 10 * usual))
        case str():
            return chance.choice((usual, usual.upper(), usual[:-1], f"{usual}s", *rules.names()))
    return usual


def put(path: Path, content: bytes, chance: random.Random) -> None:
    """Write a file; or, now and then, something that is not a file."""
    path.unlink(missing_ok=True)
    match chance.randrange(60):
        case 0:
            os.mkfifo(path)
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to(path.name)
        case 3:
            path.symlink_to("/dev/zero")
        case 4:
            pass
        case _:
            path.write_bytes(content)
