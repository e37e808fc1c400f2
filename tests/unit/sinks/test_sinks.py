"""What each kind of sink sends, and what it takes for "not taken"."""

from __future__ import annotations

import base64
import hmac
import json
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from stageflow_durable import Engine
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.sinks import Command, Function, Log, RedisStream, RunEvent, Webhook
from stageflow_durable.sinks.command import CommandFailed
from stageflow_durable.sinks.webhook import NotTaken
from tests.unit.sinks.conftest import Server, event_of

Hook = Callable[..., Webhook]

SECRET = "a secret that both sides know"
EVENT = {
    "id": "01RUN.3",
    "type": "run.parked",
    "at": "2026-01-02T03:04:05.000000Z",
    "run": {"id": "01RUN", "pipeline": "checkout", "client_id": "web", "key": "A-1"},
    "seq": 3,
    "item": 0,
    "data": {"error": "what?"},
}


@pytest.fixture
def hook(server: Server) -> Iterator[Callable[..., Webhook]]:
    made: list[Webhook] = []

    def make(query: str = "", **options: Any) -> Webhook:
        made.append(Webhook(server.url + query, **{"secret": SECRET, "time": lambda: 1_767_000_000.7, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


# --- webhooks ---------------------------------------------------------------------------------------------------------


def test_a_webhook_posts_the_event_signed_as_standard_webhooks_has_it(server: Server, hook: Hook) -> None:
    sink = hook("?tenant=a", headers={"X-Team": "ops"})
    sink.deliver(event_of())
    ((path, headers, body),) = server.asked
    assert path == "/hook?tenant=a"
    assert json.loads(body) == EVENT
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("01RUN.3", "1767000000")
    code = hmac.new(SECRET.encode(), b"01RUN.3.1767000000." + body, sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(code).decode()
    assert (headers["Content-Type"], headers["X-Team"]) == ("application/json", "ops")


def test_a_secret_of_standard_webhooks_is_read_as_there(server: Server, hook: Hook) -> None:
    sink = hook(secret="whsec_" + base64.b64encode(b"0123456789abcdef").decode())
    sink.deliver(event_of())
    _path, headers, body = server.asked[0]
    code = hmac.new(b"0123456789abcdef", b"01RUN.3.1767000000." + body, sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(code).decode()


def test_one_connection_carries_many_events(server: Server, hook: Hook) -> None:
    sink = hook()
    for number in range(3):
        sink.deliver(event_of(number))
    assert (len(server.asked), server.connections) == (3, 1)


def test_given_the_receiver_closed_what_was_kept_open_then_it_is_sent_once_more(server: Server, hook: Hook) -> None:
    sink = hook()
    server.keeps = False
    for number in range(2):
        sink.deliver(event_of(number))
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500, 503])
def test_any_other_answer_than_2xx_is_a_refusal(server: Server, hook: Hook, status: int) -> None:
    server.answers = [status]
    with pytest.raises(NotTaken, match=f"127.0.0.1 answered {status}$"):
        hook().deliver(event_of())


def test_a_redirection_is_not_followed(server: Server, hook: Hook) -> None:
    server.answers, server.location = [307], "http://127.0.0.1:1/elsewhere"
    with pytest.raises(NotTaken, match="answered 307, which is not followed: give the address that it leads to"):
        hook().deliver(event_of())
    assert len(server.asked) == 1


def test_a_delivery_is_bounded_as_a_whole_however_the_receiver_drips(server: Server, hook: Hook) -> None:
    server.drip = True
    with pytest.raises(NotTaken, match=r"127\.0\.0\.1 did not answer within 0\.2 s"):
        hook(timeout=0.2).deliver(event_of())


def test_one_that_nobody_serves_is_a_refusal() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        sink = Webhook(f"http://127.0.0.1:{bound.getsockname()[1]}/", secret=SECRET)
        with pytest.raises(OSError, match="refused"):
            sink.deliver(event_of())


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "::a9fe:a9fe",
        "fe80::1",
        "fd00:ec2::254",
        "100.100.100.200",
        "0.0.0.0",
        "224.0.0.1",
    ],
)
def test_nothing_is_sent_to_the_metadata_of_a_cloud_whatever_the_name_leads_to(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    def found(_host: str, port: int, **_options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    with pytest.raises(NotTaken, match="hooks.test leads to .*: nothing is sent there"):
        Webhook("http://hooks.test/", secret=SECRET).deliver(event_of())


@pytest.mark.parametrize(
    ("url", "to", "target"),
    [
        ("http://[fd00::7]/", ("fd00::7", 80), "/"),
        ("https://[fd00::7]/hook/", ("fd00::7", 443), "/hook/"),
        ("http://hooks.test:8080/hook/?to=ops", ("hooks.test", 8080), "/hook/?to=ops"),
        ("https://hooks.test", ("hooks.test", 443), "/"),
    ],
)
def test_what_a_url_says_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, url: str, to: tuple[str, int], target: str
) -> None:
    asked: list[Any] = []

    def found(host: str, port: int, **_options: Any) -> list[Any]:
        asked.append((host, port))
        raise OSError("nobody")

    monkeypatch.setattr(socket, "getaddrinfo", found)
    sink = Webhook(url, secret=SECRET)
    with pytest.raises(OSError, match="nobody"):
        sink.deliver(event_of())
    assert (asked, sink._target) == ([to], target)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Webhook("hooks.test", secret=SECRET), "URL of a webhook must be http"),
        (lambda: Webhook("ftp://hooks.test/", secret=SECRET), "URL of a webhook must be http"),
        (lambda: Webhook("https://me:hunter22@hooks.test/", secret=SECRET), "URL of a webhook must be http"),
        (lambda: Webhook("https://hooks.test/?token=a b", secret=SECRET), "behind its ? only printed ASCII"),
        (lambda: Webhook("https://hooks.test/", secret="short"), "at least 16 characters"),
        (lambda: Webhook("https://hooks.test/", secret="whsec_???????????"), "base64 must follow"),
        (lambda: Webhook("https://hooks.test/", secret=SECRET, timeout=51), "timeout=51: seconds above 0 and up to 50"),
        (
            lambda: Webhook("https://hooks.test/", secret=SECRET, headers={"X": "a\r\nY: b"}),
            "'X' is no name of a header",
        ),
        (lambda: Webhook("https://hooks.test/", secret=SECRET, kinds=()), "kinds="),
        (lambda: Webhook("https://hooks.test/", secret=SECRET, kinds="run."), "kinds="),
        (lambda: Command("mail ops"), "a list of a program and its arguments"),
        (lambda: Command([]), "a list of a program and its arguments"),
        (lambda: Command(["mail"], timeout=0), "timeout=0"),
        (lambda: RedisStream("http://x"), "URL of a Redis stream"),
        (lambda: RedisStream("redis://x", keep=0), "keep=0"),
        (lambda: Function(lambda event: None), "has no name that lasts"),
        (lambda: Function(3), "3 is not a function"),  # type: ignore[arg-type]  # that is the mistake
        (lambda: Function(print, name="new\nline"), "cannot name a sink"),
        (lambda: Engine("shop", sinks=print), "sinks= is a list"),  # type: ignore[arg-type]  # that is the mistake
        (lambda: Engine("shop", sinks=[Log(), Log()]), "two sinks are named 'log'"),
        (lambda: Engine("shop", sinks=[Log]), "sinks[0] is the class Log"),  # type: ignore[list-item]  # that is the mistake
    ],
)
def test_a_mistake_is_found_when_it_is_made(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        make()
    assert says in str(raised.value)
    assert "hunter2" not in str(raised.value)


# --- commands ---------------------------------------------------------------------------------------------------------


def script(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "told.py"
    path.write_text(text, encoding="utf-8")
    return [sys.executable, "-I", "-S", str(path), "; echo $HOME"]


def test_a_command_gets_the_event_on_its_standard_input_and_no_shell(tmp_path: Path) -> None:
    to = tmp_path / "got"
    write = f"import sys; open({str(to)!r}, 'w').write(sys.argv[1] + sys.stdin.read())"
    Command(script(tmp_path, write)).deliver(event_of())
    argument, _brace, told = to.read_text(encoding="utf-8").partition("{")
    assert argument == "; echo $HOME"
    assert json.loads("{" + told) == EVENT


def test_one_that_fails_did_not_take_it(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="exited with 3: no mail today"):
        Command(script(tmp_path, "import sys; print('no mail today', file=sys.stderr); sys.exit(3)")).deliver(
            event_of()
        )


def test_one_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    hang = "import os, time; os.fork(); time.sleep(60)"
    with pytest.raises(CommandFailed, match=r"did not end within 0\.3 s"):
        Command(script(tmp_path, hang), timeout=0.3).deliver(event_of())


def test_one_that_leaves_something_running_is_not_waited_for(tmp_path: Path) -> None:
    leave = "import os, time; os.fork() or time.sleep(3)"
    Command(script(tmp_path, leave), timeout=2.5).deliver(event_of())


def test_one_that_reads_nothing_took_it_all_the_same(tmp_path: Path) -> None:
    Command(script(tmp_path, "")).deliver(event_of(data="x" * 1_000_000))


# --- the log, streams -------------------------------------------------------------------------------------------------


def test_the_log_has_a_line_of_json_and_the_same_as_a_record_for_formatters(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "stageflow.events"):
        Log().deliver(event_of(error="two\nlines \x1b[31m \u202e"))
    (record,) = caplog.records
    said = record.getMessage()
    assert said.isascii()
    assert said.isprintable()
    assert json.loads(said)["data"] == {"error": "two\nlines \x1b[31m \u202e"}
    assert vars(record)["stageflow"]["run"] == EVENT["run"]


@pytest.mark.redis
def test_a_stream_has_an_entry_for_each_event_and_no_more_than_it_keeps(valkey_url: str) -> None:
    import redis

    sink = RedisStream(valkey_url, stream="told", keep=1)
    for number in range(300):
        sink.deliver(event_of(number))
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        entries: Any = client.xrange("told")
    assert 0 < len(entries) < 300, "about as many as it keeps: whole nodes go"
    _id, last = entries[-1]
    assert (last["id"], last["type"], last["run"]) == ("01RUN.299", "run.parked", "01RUN")
    assert json.loads(last["event"])["run"] == EVENT["run"]


def test_a_function_may_be_async() -> None:
    told = []

    async def take(event: RunEvent) -> None:
        told.append(event.id)

    Function(take, name="mine").deliver(event_of())
    assert told == ["01RUN.3"]
    assert Function(take_it).name == "tests.unit.sinks.test_sinks.take_it"


def take_it(_event: RunEvent) -> None:
    """A function with a name that lasts."""


def test_the_name_of_a_webhook_tells_nothing_of_its_path() -> None:
    names = [Webhook(f"https://h.example/services/{token}", secret="s" * 20).name for token in ("T0ken", "other")]
    assert "T0ken" not in names[0]
    assert names[0] != names[1]
    assert {name.rpartition(":")[0] for name in names} == {"webhook:h.example"}
