"""What a person hands in, as bytes from a file or from standard input: which encoding it has, and text from it."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO

from stageflow_durable.cli.failures import Misuse

MOST_BYTES = 256 * 1024 * 1024
"""The longest document or line that is read: more than any setting of ``max_payload_bytes`` takes."""

_BOM = b"\xef\xbb\xbf"
_OURS = ("utf-8", "utf-8-sig")
_UNDECODABLE = b"\xff"  # stands for what ends in the middle of a character


def read_source(text: str, option: str) -> str:
    """What ``text`` stands for: itself, or the contents of ``@file`` or ``@-``."""
    return decoded(read_bytes(text, option), f"{option} {text}") if text.startswith("@") else text


def read_bytes(source: str, option: str) -> bytes:
    """The bytes of ``@file`` or ``@-``. Fails when it cannot be read, is empty, or is longer than any input."""
    try:
        if source == "@-":
            raw = standard_input(option).read(MOST_BYTES + 1)
        else:
            with Path(source[1:]).open("rb") as file:
                raw = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # a NUL in the name of a file is a ValueError
        raise unreadable(source, option, error) from error
    if len(raw) > MOST_BYTES:
        raise Misuse(f"{option} {source}: longer than {MOST_BYTES} bytes, which no input may be")
    if not raw.strip(b" \t\r\n\0").removeprefix(_BOM):
        raise Misuse(f"{option} {source}: it is empty")
    return raw


def standard_input(option: str) -> IO[bytes]:
    """Standard input as bytes. Fails where it is closed."""
    if sys.stdin is None or sys.stdin.closed:
        raise Misuse(f"{option} @-: standard input is closed")
    return sys.stdin.buffer


def unreadable(source: str, option: str, error: Exception) -> Misuse:
    """What to say of a source that cannot be read."""
    return Misuse(f"{option} {source}: {getattr(error, 'strerror', None) or error}")


def decoded(raw: bytes, what: str) -> str:
    """Text in UTF-8, or UTF-16 or UTF-32 with their mark or without; a mark is left out. Fails with the place."""
    encoding = encoding_of(raw)
    try:
        return raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise Misuse(f"{what} is {not_decoded(encoding, error)}") from error


def not_decoded(encoding: str, error: UnicodeDecodeError) -> str:
    """What is wrong with bytes that were to be text, and the way out."""
    name = encoding.removesuffix("-sig").upper()
    return f"not {name} at byte {error.start + 1}; convert it: iconv -f latin1 -t utf-8 FILE"


def encoding_of(beginning: bytes) -> str:
    """The encoding of JSON that begins so, as its first four bytes tell; UTF-8 unless they tell another."""
    # A text in UTF-8 may begin with a NUL by accident; of the others each character that JSON begins with has one.
    return json.detect_encoding(beginning[:4]) if len(beginning) > 1 else "utf-8"


class Lines:
    """The lines of a stream as bytes of UTF-8, whatever its encoding is, each with its end; what cannot be decoded is
    left for who reads the line. Of a line longer than :data:`MOST_BYTES` only so much is given.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def count(self) -> int | None:
        """How many lines there are; None where they cannot be read twice."""
        if not self._stream.seekable():
            return None
        number = sum(1 for _line in self)
        self._stream.seek(0)
        return number

    def __iter__(self) -> Iterator[bytes]:
        """Each line once."""
        first = self._line()
        encoding = encoding_of(first)
        parts = chain([first], iter(self._line, b""))
        return iter(_transcoded(parts, encoding) if encoding not in _OURS else _unmarked(parts))

    def _line(self) -> bytes:
        line = part = self._stream.readline(MOST_BYTES)
        while len(part) == MOST_BYTES and not part.endswith(b"\n"):
            part = self._stream.readline(MOST_BYTES)
        return line


def _unmarked(parts: Iterator[bytes]) -> Iterator[bytes]:
    yield next(parts).removeprefix(_BOM)
    yield from parts


def _transcoded(parts: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    rest = ""
    try:
        for part, final in chain(((part, False) for part in parts), [(b"", True)]):
            *lines, rest = (rest + decoder.decode(part, final)).split("\n")
            yield from (f"{line}\n".encode("utf-8", "surrogatepass").removeprefix(_BOM) for line in lines)
    except UnicodeDecodeError:
        yield _UNDECODABLE
        return
    if rest:
        yield rest.encode("utf-8", "surrogatepass")
