"""``stageflow enqueue``: start one run, or one for each line of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from stageflow_durable.cli.completion import pipelines_known
from stageflow_durable.cli.failures import FAILED, INTERRUPTED, Failure, Misuse, OutputLost
from stageflow_durable.cli.interrupts import Steps
from stageflow_durable.cli.lines import BATCH, Answer, Start, Wanted, key_of, numbered, started
from stageflow_durable.cli.output import console, print_json, print_line, printing, say
from stageflow_durable.cli.parameters import SECONDS, attribute_option, parsed
from stageflow_durable.cli.reading import Lines, decoded, read_bytes, standard_input, unreadable
from stageflow_durable.cli.session import Session, app_option, json_option, utc_now
from stageflow_durable.cli.tally import Tally, Wish, document, result_of
from stageflow_durable.codec import strict_json
from stageflow_durable.engine.accept import Submission
from stageflow_durable.model.keys import new_run_id

if TYPE_CHECKING:
    from stageflow_durable.cli.ports import Handle

StartOne = Callable[[Any, str | None], "Handle"]


@click.command(short_help="Start runs, from JSON, a file or a file of lines.")
@click.argument("pipeline", shell_complete=pipelines_known)
@click.option(
    "--input",
    "source",
    metavar="JSON|@FILE|@FILE.jsonl|@-",
    required=True,
    help="The input; @FILE reads it, @FILE.jsonl starts a run a line, @- reads standard input.",
)
@click.option("--lines", is_flag=True, help="One run a line, whatever the file is called; standard input as it comes.")
@click.option("--client-id", metavar="NAME", help="Whose run it is; keys of two clients never meet.")
@click.option("--idempotency-key", metavar="KEY", help="The same key starts nothing twice.")
@click.option("--key-field", metavar="FIELD", help="Take the key from this field of the input, e.g. order_id.")
@attribute_option("What the run is found by, e.g. order=A-1; of a file of lines every run gets it.")
@click.option("--from-line", type=click.IntRange(min=1), default=1, metavar="N", help="Begin at this line of the file.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit 1 unless every run succeeds.")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="Wait at most so long for each.")
@json_option
@app_option
@click.pass_context
def enqueue(
    ctx: click.Context,
    /,
    pipeline: str,
    source: str,
    lines: bool,
    client_id: str | None,
    idempotency_key: str | None,
    attributes: dict[str, str],
    **wishes: Any,
) -> None:
    """Start runs of PIPELINE. The id of each run is printed on standard output.

    Of a file of lines, every line is started or refused with its number and reason; exit 1 when any was refused.
    """
    wish = Wish(**wishes)
    if idempotency_key is not None and wish.key_field:
        raise Misuse("--idempotency-key or --key-field, not both")
    application = Session.of(ctx).application()
    given: dict[str, Any] = {"attributes": attributes} if attributes else {}
    if client_id is not None:
        given["client_id"] = client_id

    def start(value: Any, key: str | None) -> Handle:
        return application.enqueue(pipeline, value, idempotency_key=key, **given)

    def start_many(wanted: Sequence[Wanted]) -> Sequence[Answer]:
        submissions = [Submission(one.value, idempotency_key=one.key, run_id=one.run_id, **given) for one in wanted]
        return application.enqueue_many(pipeline, submissions, on_error="collect")

    many = _stream_of_lines(source, lines)
    if many is None:
        ctx.exit(_start_one(start, start_many, source, idempotency_key, wish))
    with many as stream:
        if idempotency_key is not None:
            raise Misuse("one --idempotency-key cannot serve many lines; take each from a field: --key-field order_id")
        ctx.exit(_start_many(start_many, stream, source.removeprefix("@"), wish))


def _stream_of_lines(source: str, lines: bool) -> AbstractContextManager[IO[bytes]] | None:
    """The lines to start; None when the source is one document."""
    if source == "@-":
        return nullcontext(standard_input("--input")) if lines else None
    if not source.startswith("@"):
        return nullcontext(BytesIO(source.encode())) if lines else None
    path = Path(source[1:])
    if not lines and path.suffix not in (".jsonl", ".ndjson"):
        return None
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise unreadable(source, "--input", error) from error


# --- one ------------------------------------------------------------------------------------------------------------


def _start_one(start: StartOne, start_many: Start, source: str, key: str | None, wish: Wish) -> int:
    text = source
    if source.startswith("@"):
        raw = read_bytes(source, "--input")
        text = decoded(raw, f"--input {source}")
        if source == "@-" and _many_documents(text):
            return _start_many(start_many, BytesIO(raw), "-", wish)
    value = parsed(text, f"--input {source}" if source.startswith("@") else "--input")
    try:
        handle = start(value, key if key is not None else key_of(value, wish.key_field))
    except ValueError as error:
        raise Misuse(str(error)) from error
    if not wish.wait:
        return _announce(handle, wish)
    return _await(handle, wish)


def _many_documents(text: str) -> bool:
    """Whether standard input holds JSON lines: more than one, and not one document that is spread over them."""
    try:
        strict_json(text)
    except ValueError:
        return "\n" in text.strip()
    return False


def _announce(handle: Handle, wish: Wish) -> int:
    with printing(f"run {handle.run_id} is {_was(handle)}"):
        if wish.as_json:
            print_json(document(handle))
            return 0
        print_line(handle.run_id)
    say(f"{_was(handle)}; stageflow show {handle.run_id}")
    return 0


def _was(handle: Handle) -> str:
    return "the key was used before: this is the run of then" if handle.replayed else "started"


def _await(handle: Handle, wish: Wish) -> int:
    # The id comes first: whoever stops waiting still knows which run it was.
    say(f"{_was(handle)}: {handle.run_id}") if wish.as_json else print_line(handle.run_id)
    try:
        result, error = result_of(handle, wish)
    except KeyboardInterrupt:
        say(f"\nstageflow: no longer waiting; run {handle.run_id} goes on: stageflow show {handle.run_id} --watch")
        raise click.exceptions.Exit(INTERRUPTED) from None
    if wish.as_json:
        print_json({**document(handle), "status": handle.status(), "result": result, "error": error})
        return FAILED if error else 0
    if error:
        raise Failure(error)
    print_json(result)
    return 0


# --- many -----------------------------------------------------------------------------------------------------------


def _start_many(start: Start, stream: IO[bytes], name: str, wish: Wish) -> int:
    tally, steps = Tally(name, wish), Steps()
    try:
        with steps.held_back():
            _start_all(start, Lines(stream), tally, steps, wish)
            if wish.wait:
                _await_all(tally)
    except KeyboardInterrupt:
        say(f"\nstageflow: {tally.interrupted(torn=steps.torn)}")
        tally.conclude()
        raise click.exceptions.Exit(128 + steps.number) from None
    except OutputLost as error:
        say(f"stageflow: {error.message}: {tally.interrupted(torn=False)}")
        tally.conclude(printed=False)
        raise
    except BaseException:
        tally.conclude()
        raise
    tally.conclude()
    return FAILED if tally.refused or tally.failed else 0


def _start_all(start: Start, lines: Lines, tally: Tally, steps: Steps, wish: Wish) -> None:
    def whole(wanted: Sequence[Wanted]) -> Sequence[Answer]:
        steps.hold()
        return start(wanted)

    total = lines.count()
    # What cannot be read twice comes line by line, from somebody who may wait for the answer.
    batch = BATCH if total is not None else 1
    wanted = numbered(lines, wish.from_line)
    with _progress("starting", total) as (advance, tell):
        for told in started(wanted, whole, wish.key_field, batch=batch, pause=steps.pause, new_id=_new_id):
            tally.take(told, tell)
            for _line in told:
                advance()
            steps.release()
    tally.complete = True


def _new_id() -> str:
    return new_run_id(int(utc_now().timestamp() * 1000))


def _await_all(tally: Tally) -> None:
    with _progress("waiting", len(tally.handles)) as (advance, tell):
        for number, handle in tally.handles:
            tally.end(number, handle, tell)
            advance()


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[tuple[Callable[[], object], Callable[[str], None]]]:
    out = console(stderr=True)
    if not out.is_terminal:
        yield (lambda: None), say
        return
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    with Progress(
        *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), console=out, transient=True
    ) as bar:
        task = bar.add_task(what, total=total)
        yield partial(bar.advance, task), lambda text: bar.console.print(text, soft_wrap=True)
