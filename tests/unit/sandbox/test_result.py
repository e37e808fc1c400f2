"""What comes out of a sandbox is read as what a stranger wrote."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from typing import Any

import pytest

from stageflow_durable.codec import decode, encode
from stageflow_durable.sandbox import SandboxResult, ToolFailed
from stageflow_durable.sandbox.result import MOST_DEPTH, read_result, read_value


def answer(**parts: Any) -> dict[str, Any]:
    packed = {name: b64encode(data).decode() for name, data in parts.items() if isinstance(data, bytes)}
    return {"exit_code": 0, "over": None, "files": {}, "usage": {"wall_seconds": 1}, **parts, **packed}


def read(secrets: dict[str, str] | None = None, **parts: Any) -> SandboxResult:
    return read_result(answer(**parts), "bubblewrap", secrets or {})


def test_streams_are_text_whatever_bytes_they_were() -> None:
    result = read(stdout=b"caf\xc3\xa9 \xff\x00", stderr=b"\x1b[31m")
    assert result.stdout == "café \\xff\x00"
    assert decode(encode(result.as_output(), "output")) == result.as_output()


def test_a_value_may_look_like_what_the_codec_writes() -> None:
    hostile = {"$sf": "enum", "of": '["os:system","x"]', "v": {"$sf": "path", "v": "/"}}
    value = read(value=json.dumps(hostile).encode()).value
    assert value == hostile
    assert decode(encode(value, "output")) == hostile


@pytest.mark.parametrize(
    "raw", [b"\x80\x04\x95", b"{", b"1 2", b"NaN", b"Infinity", b"1e999", b"9" * 5000, b"\xff\xfe", b"'x'"], ids=repr
)
def test_a_value_that_is_no_json_is_the_tools_failure(raw: bytes) -> None:
    with pytest.raises(ToolFailed, match="no JSON"):
        read(value=raw)


@pytest.mark.parametrize("bracket", [b"[", b'{"a":', b'["\\"]", ['])
def test_a_value_that_is_too_deep_is_the_tools_failure(bracket: bytes) -> None:
    with pytest.raises(ToolFailed, match=f"more than {MOST_DEPTH} levels deep"):
        read(value=bracket * 100_000)


def test_brackets_in_texts_are_no_levels() -> None:
    assert read_value(json.dumps(["[" * 1000, '"{\\']).encode(), {}) == ["[" * 1000, '"{\\']


@pytest.mark.parametrize("raw", [b'"' + b'\\"' * 500_000, b'"\\' * 500_000, b'"' * 1_000_000, b"[" + b'"",' * 300_000])
def test_a_value_that_is_made_to_be_slow_to_read_is_not(raw: bytes) -> None:
    begun = time.monotonic()
    with pytest.raises(ToolFailed):
        read(value=raw)
    assert time.monotonic() - begun < 5


def test_halves_of_characters_are_shown_as_such() -> None:
    assert read(value=b'{"\\ud800": "\\udfff"}').value == {"\\ud800": "\\udfff"}


def test_secrets_are_masked_wherever_they_come_back() -> None:
    result = read(
        {"SHORT": "abc", "KEY": "abcdef"},
        stdout=b"-abcdef-",
        stderr=b"abc",
        value=b'{"abcdef": ["x abcdef", {"y": "abc"}]}',
    )
    assert (result.stdout, result.stderr) == ("-***-", "***")
    assert result.value == {"***": ["x ***", {"y": "***"}]}


def test_a_file_that_holds_a_secret_is_not_taken_out() -> None:
    with pytest.raises(ToolFailed, match=r"'out\.txt' holds the secret KEY") as failed:
        read({"KEY": "s3cr3t"}, files={"out.txt": b64encode(b"x s3cr3t").decode()})
    assert "s3cr3t" not in str(failed.value)


def test_a_tool_that_failed_has_no_value() -> None:
    assert read(exit_code=1, value=b"1").value is None
    assert read(over="wall", exit_code=0, value=b"1").exit_code is None
