"""The tables. Times are seconds since the epoch by the database's clock; JSON is stored as text, as it was encoded.

Every write follows ``docs/explanation/protocol.md``: the run row is locked first, an owner's write names its fence.
``item``: 0, or which of the items that a stage is carried out for; with the stage it says whose a row is (ADR 0038).

Rows of a run have no foreign key to it: what is written under the run's lock cannot miss it, and the database would
look it up for each row again (ADR 0017). ``retention`` deletes them with their run.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    FetchedValue,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import DOMAIN

from stageflow_durable.model.status import (
    AttemptState,
    Cause,
    ParkReason,
    Phase,
    RunStatus,
    StepState,
    StrandState,
    WaitingFor,
)
from stageflow_durable.state.metadata import PREFIX, Condition, metadata, tied


def stated(
    table: str, name: str, states: Iterable[str], *, length: int = 16, nullable: bool = False
) -> tuple[Column[str], CheckConstraint]:
    """A column that holds one of ``states``; NULL passes where the column allows it. On PostgreSQL the check is a
    domain's, which a session parses once: those of a table are parsed anew for each statement that writes to it.
    """
    domain = DOMAIN(f"{PREFIX}{table}_{name}", String(length), create_type=False)
    listed = ", ".join(f"'{state}'" for state in states)
    check = CheckConstraint(Condition(f"{name} IN ({listed})"), name=f"{name}_known").ddl_if(dialect="sqlite")
    return Column(name, String(length).with_variant(domain, "postgresql"), nullable=nullable), check


ID = String(32)
NAME = String(255)


def item() -> Column[int]:
    """Which item of its stage a row is about; 0: the stage has none. Each table's own, and part of its key."""
    return Column("item", Integer, primary_key=True, autoincrement=False, server_default=text("0"))


owners = Table(
    "stageflow_owners",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("host", NAME, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("boot", ID, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("dead_at", Double),
    # What it began cannot act any more: its process was seen to end, or its body to return. Without it only its lease
    # ran out.
    Column("confirmed", Boolean, nullable=False, server_default=text("false")),
    # What it knows and serves; NULL: of a release that did not say.
    Column("profile", ID),
    # Of how many seconds; and since when it, or its worker before it, has renewed without a gap by this clock.
    Column("lease", Double),
    Column("steady_since", Double),
    # What proves the end of its process to others on its host: see engine/processes.
    Column("machine", String(64)),
    Column("kernel", String(100)),
    Column("born", String(32)),
    # A lost attempt of it has no bound in time: undos wait until its end is confirmed.
    Column("awaited", Boolean, nullable=False, server_default=text("false")),
    Column("confirmed_at", Double),
    Column("confirmed_by", NAME),
    Column("confirmed_reason", Text),
    Index(
        "ix_stageflow_owners_alive",
        "expires_at",
        postgresql_where=text("dead_at IS NULL"),
        sqlite_where=text("dead_at IS NULL"),
    ),
    Index("ix_stageflow_owners_boot", "boot", "pid"),
    Index("ix_stageflow_owners_awaited", "id", postgresql_where=text("awaited"), sqlite_where=text("awaited")),
)

profiles = Table(
    "stageflow_profiles",
    metadata,
    # A digest of the body: processes that know and serve the same share the row.
    Column("id", ID, primary_key=True),
    Column("body", Text, nullable=False),
    Column("seen_at", Double, nullable=False),
)

definitions = Table(
    "stageflow_definitions",
    metadata,
    Column("digest", ID, primary_key=True),
    Column("pipeline", NAME, nullable=False),
    Column("version", NAME, nullable=False),
    Column("body", Text, nullable=False),
    Column("registered_at", Double, nullable=False),
    Index("ix_stageflow_definitions_pipeline", "pipeline", "registered_at"),
)

runs = Table(
    "stageflow_runs",
    metadata,
    Column("id", ID, primary_key=True),
    Column("client_id", NAME, nullable=False),
    Column("pipeline", NAME, nullable=False),
    Column("version", NAME, nullable=False),
    Column("key", NAME),
    Column("fingerprint", String(64), nullable=False),
    Column("definition", ID, ForeignKey("stageflow_definitions.digest"), nullable=False),
    Column("input", Text, nullable=False),
    # Under which schema of its pipeline the input, and each checkpoint, was saved: see Pipeline.migrations.
    Column("input_schema", Integer, nullable=False, server_default=text("1")),
    Column("metadata", Text, nullable=False),
    Column("queue", NAME, nullable=False),
    Column("priority", Integer),
    *stated("runs", "phase", Phase),
    *stated("runs", "status", RunStatus, length=24),
    *stated("runs", "cause", Cause, nullable=True),
    *stated("runs", "park_reason", ParkReason, nullable=True),
    Column("error", Text),
    Column("error_stage", NAME),
    Column("op_version", Integer, nullable=False, server_default=text("0")),
    Column("pivot_passed", Boolean, nullable=False, server_default=text("false")),
    Column("past_pivot", Boolean, nullable=False, server_default=text("false")),
    Column("deadline", Double),
    Column("seq", Integer, nullable=False),
    Column("head", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("finished_at", Double),
    # The run that started this one, and the stage and item that did; NULL: nobody did but a client.
    Column("parent", ID),
    # How many items its stages have so far: the number of the newest one.
    Column("item_count", Integer, nullable=False, server_default=text("0")),
    # Processes to be told of its end, or of every change, after the commit: see model/awaited. No transition reads it.
    Column("awaited_by", NAME),
    # When its values went, for good; NULL: they are there.
    Column("erased_at", Double),
    Column("parent_stage", NAME),
    Column("parent_item", Integer),
    UniqueConstraint("client_id", "pipeline", "key"),
    *tied(
        "runs",
        ("phase", "status", "park_reason"),
        parked_has_reason="(status = 'parked') = (park_reason IS NOT NULL AND phase = 'settled')",
        settled_is_at_rest="(phase = 'settled') = (status IN ('parked', 'succeeded', 'failed', 'cancelled', "
        "'compensated', 'compensation_failed'))",
        backward_compensates="(phase = 'backward') = (status = 'compensating')",
    ),
    Index("ix_stageflow_runs_created", "created_at", "id"),
    Index("ix_stageflow_runs_status", "status", "created_at"),
    Index("ix_stageflow_runs_pipeline", "pipeline", "created_at"),
    Index("ix_stageflow_runs_client", "client_id", "created_at"),
    # Those that are searched for an error.
    Index(
        "ix_stageflow_runs_error",
        "created_at",
        "id",
        postgresql_where=text("error IS NOT NULL"),
        sqlite_where=text("error IS NOT NULL"),
    ),
    Index(
        "ix_stageflow_runs_deadline",
        "deadline",
        postgresql_where=text("deadline IS NOT NULL AND phase = 'forward'"),
        sqlite_where=text("deadline IS NOT NULL AND phase = 'forward'"),
    ),
)

strands = Table(
    "stageflow_strands",
    metadata,
    Column("run", ID, primary_key=True),
    # "reserve" for the line that starts at stage reserve, "undo:reserve" for the undo of it.
    Column("strand", NAME, primary_key=True),
    item(),
    # The phase in which this strand may begin: its direction.
    *stated("strands", "direction", (Phase.FORWARD, Phase.BACKWARD)),
    Column("stage", NAME, nullable=False),
    *stated("strands", "state", StrandState),
    Column("gen", Integer, nullable=False, server_default=text("0")),
    Column("owner", String(64)),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("lost", Integer, nullable=False, server_default=text("0")),
    Column("delay", Double),
    Column("first_at", Double),
    Column("wake_at", Double),
    # Since when a message is presumed under way, set in the commit before the message is sent; NULL: none is known to
    # be. One that was lost is found by its age (``recovery.undelivered``).
    Column("published_at", Double),
    Column("nudges", Integer, nullable=False, server_default=text("0")),
    Column("queue", NAME, nullable=False),
    Column("progress", Text),
    # Of the attempt that runs here, which has no row of its own before it is over; as it was, while none runs.
    Column("began_at", Double),
    # Until then its body may act.
    Column("kill_by", Double),
    *stated("strands", "waiting_for", WaitingFor, nullable=True),
    *tied(
        "strands",
        ("state", "owner", "wake_at", "waiting_for"),
        running_has_owner="(state = 'running') = (owner IS NOT NULL)",
        waiting_says_for_what="(state = 'waiting') = (waiting_for IS NOT NULL)",
        # A signal may be waited for without end, but no time.
        due_time_is_of_a_wait="CASE WHEN waiting_for = 'time' THEN wake_at IS NOT NULL "
        "WHEN waiting_for IS NULL THEN wake_at IS NULL ELSE true END",
    ),
    Index(
        "ix_stageflow_strands_owner",
        "owner",
        postgresql_where=text("state = 'running'"),
        sqlite_where=text("state = 'running'"),
    ),
    Index(
        "ix_stageflow_strands_due",
        "wake_at",
        postgresql_where=text("state = 'waiting'"),
        sqlite_where=text("state = 'waiting'"),
    ),
    # Handed back by a worker that does not know its definition: see ``state.handed_back``.
    Index(
        "ix_stageflow_strands_handed_back",
        "run",
        postgresql_where=text("state = 'waiting' AND nudges > 0"),
        sqlite_where=text("state = 'waiting' AND nudges > 0"),
    ),
    Index(
        "ix_stageflow_strands_outbox",
        "queue",
        "published_at",
        postgresql_where=text("state = 'ready'"),
        sqlite_where=text("state = 'ready'"),
    ),
)

ENDED = tuple(state for state in AttemptState if state is not AttemptState.RUNNING)
"""How a row says that an attempt ended: while it runs, it is its strand's."""

attempts = Table(
    "stageflow_attempts",
    metadata,
    Column("run", ID, primary_key=True),
    Column("stage", NAME, primary_key=True),
    item(),
    Column("direction", String(16), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("owner", String(64), nullable=False),
    *stated("attempts", "state", ENDED),
    # The action may have happened without our knowing: raised, failed, timed out or lost.
    Column("doubt", Boolean, nullable=False, server_default=text("false")),
    Column("began_at", Double, nullable=False),
    Column("ended_at", Double, nullable=False),
    # Until then the body of a lost one may still act, unless the end of its owner is confirmed; an undo waits for it.
    Column("kill_by", Double),
    Column("error", Text),
    Column("category", String(16)),
    Column("delay", Double),
    # Where it raised, for as long as the settings say; most have none.
    Column("trace", Text),
    Index(
        "ix_stageflow_attempts_traced",
        "ended_at",
        postgresql_where=text("trace IS NOT NULL"),
        sqlite_where=text("trace IS NOT NULL"),
    ),
    # What its code logged, as a JSON list of lines, for as long as its traceback.
    Column("log", Text),
    Index(
        "ix_stageflow_attempts_logged",
        "ended_at",
        postgresql_where=text("log IS NOT NULL"),
        sqlite_where=text("log IS NOT NULL"),
    ),
)

checkpoints = Table(
    "stageflow_checkpoints",
    metadata,
    Column("run", ID, primary_key=True),
    Column("stage", NAME, primary_key=True),
    item(),
    Column("skipped", Boolean, nullable=False, server_default=text("false")),
    Column("delta", Text),
    Column("saved_schema", Integer, nullable=False, server_default=text("1")),
    Column("at", Double, nullable=False),
)

saga_steps = Table(
    "stageflow_saga_steps",
    metadata,
    Column("run", ID, primary_key=True),
    Column("stage", NAME, primary_key=True),
    item(),
    *stated("saga_steps", "state", StepState, length=24),
    # How the action stood when its undo began: "ok" or "unknown".
    *stated("saga_steps", "outcome", ("ok", "unknown"), length=8, nullable=True),
    Column("error", Text),
    Column("reason", Text),
)

events = Table(
    "stageflow_events",
    metadata,
    Column("run", ID, primary_key=True),
    # An item has a chain of its own, as the run has: its events neither wait for the run's number nor share it.
    item(),
    Column("seq", Integer, primary_key=True),
    Column("type", NAME, nullable=False),
    Column("at", Double, nullable=False),
    Column("data", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("mac", String(64), nullable=False),
    # In which order sinks are told of it; the database gives it. NULL: it is older than any sink.
    Column("position", BigInteger, server_default=FetchedValue()),
    Index(
        "ix_stageflow_events_position",
        "position",
        postgresql_where=text("position IS NOT NULL"),
        sqlite_where=text("position IS NOT NULL"),
    ),
)

items = Table(
    "stageflow_items",
    metadata,
    # One of the things for which a stage is carried out. Numbered per run, from 1.
    Column("run", ID, primary_key=True),
    Column("item", Integer, primary_key=True, autoincrement=False),
    Column("stage", NAME, nullable=False),
    Column("grp", Integer, nullable=False),
    Column("input", Text, nullable=False),
    # Of its own chain of events, whose first one names the run's event that opened it.
    Column("seq", Integer, nullable=False),
    Column("head", String(64), nullable=False),
    Column("updated_at", Double, nullable=False),
)

item_groups = Table(
    "stageflow_item_groups",
    metadata,
    # Some of the items of a stage ("reserve"), or of its undo ("undo:reserve"). Whoever changes one of them locks this
    # row, and counts here how its strand ended: see ``transitions/items.py``.
    Column("run", ID, primary_key=True),
    Column("strand", NAME, primary_key=True),
    Column("grp", Integer, primary_key=True, autoincrement=False),
    Column("total", Integer, nullable=False),
    Column("running", Integer, nullable=False),
    Column("done", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    # Whether the others go on when one of them fails.
    Column("collects", Boolean, nullable=False),
    # The sum of the codes of the events by which they ended.
    Column("digest", String(64), nullable=False),
)

attributes = Table(
    "stageflow_attributes",
    metadata,
    # What people find a run by. Beside the run's row: that is written at each stage, this hardly ever.
    Column("run", ID, primary_key=True),
    Column("name", NAME, primary_key=True),
    Column("value", NAME, nullable=False),
    # Ids sort by time: the newest runs of one value come from its end.
    Index("ix_stageflow_attributes_value", "name", "value", "run"),
)

signals = Table(
    "stageflow_signals",
    metadata,
    # What people and programs told a run. ``stage``: the wait that it is for, which is called as the signal is.
    Column("run", ID, primary_key=True),
    Column("stage", NAME, primary_key=True),
    item(),
    Column("n", Integer, primary_key=True),
    # The same key again is the same signal, also once the wait is over.
    Column("key", NAME),
    Column("fingerprint", String(64), nullable=False),
    Column("payload", Text, nullable=False),
    Column("saved_schema", Integer, nullable=False, server_default=text("1")),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("received_at", Double, nullable=False),
    # When the wait ended with it; NULL: it is kept.
    Column("consumed_at", Double),
    Index(
        "ix_stageflow_signals_key",
        "stage",
        "key",
        postgresql_where=text("key IS NOT NULL"),
        sqlite_where=text("key IS NOT NULL"),
    ),
)

approvals = Table(
    "stageflow_approvals",
    metadata,
    # What somebody was asked to approve, and what they said. ``stage``: the one that asks.
    Column("run", ID, primary_key=True),
    Column("stage", NAME, primary_key=True),
    item(),
    Column("n", Integer, primary_key=True),
    Column("content", Text, nullable=False),
    # The fingerprint of the content: an approval holds for nothing else.
    Column("digest", String(64), nullable=False),
    Column("asked_at", Double, nullable=False),
    *stated("approvals", "decision", ("approved", "denied"), nullable=True),
    Column("actor", Text),
    # Whether it is known that the actor is who they say.
    Column("authenticated", Boolean, nullable=False, server_default=text("false")),
    Column("reason", Text),
    Column("decided_at", Double),
    # When the run went on with it, or was to go on without it.
    Column("consumed_at", Double),
    Index(
        "ix_stageflow_approvals_open",
        "asked_at",
        postgresql_where=text("decided_at IS NULL AND consumed_at IS NULL"),
        sqlite_where=text("decided_at IS NULL AND consumed_at IS NULL"),
    ),
)

links = Table(
    "stageflow_links",
    metadata,
    # Links by which one person may decide about an approval. ``token``: a hash, since whoever has the token may decide.
    Column("run", ID, primary_key=True),
    Column("token", String(64), primary_key=True),
    Column("stage", NAME, nullable=False),
    Column("actor", Text, nullable=False),
    Column("made_by", Text, nullable=False),
    Column("made_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    # When somebody decided by it; NULL: nobody did.
    Column("used_at", Double),
)

calls = Table(
    "stageflow_calls",
    metadata,
    # Saved steps: what the body of a stage did, each saved by itself. ``call``: a digest of what identifies it among
    # those of its stage: its key, or its name, its arguments and which of those it is. See ``transitions/calls``.
    Column("run", ID, primary_key=True),
    Column("stage", NAME, primary_key=True),
    item(),
    Column("call", String(64), primary_key=True),
    # In the order in which they came into the table.
    Column("n", Integer, nullable=False),
    Column("name", NAME, nullable=False),
    Column("key", NAME),
    # Of the arguments.
    Column("fingerprint", String(64), nullable=False),
    # Of a tool's call what kind of action it is, and its arguments; NULL: a step of the body's own.
    Column("action", NAME),
    Column("arguments", Text),
    # The attempt that wrote it last.
    Column("attempt", Integer, nullable=False),
    Column("result", Text),
    # When its result was saved; NULL: it was about to be made, and may have been.
    Column("saved_at", Double),
    # Whether it can be undone, and when it was.
    Column("undoable", Boolean, nullable=False, server_default=text("false")),
    Column("undone_at", Double),
)

queues = Table(
    "stageflow_queues",
    metadata,
    Column("name", NAME, primary_key=True),
    # Nudges published up to then have been served: what is older and still ready was lost.
    Column("served_at", Double, nullable=False),
    # When a worker of it last became free, or the queue empty: what was published before and is still ready was lost.
    Column("free_at", Double),
)

tombstones = Table(
    "stageflow_tombstones",
    metadata,
    # What is left of a pruned run: its key, so that it is not run again, and the head of its history.
    Column("run", ID, primary_key=True),
    Column("client_id", NAME, nullable=False),
    Column("pipeline", NAME, nullable=False),
    Column("key", NAME),
    Column("fingerprint", String(64), nullable=False),
    Column("status", String(24), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("head", String(64), nullable=False),
    Column("finished_at", Double, nullable=False),
    Column("pruned_at", Double, nullable=False),
    Column("mac", String(64), nullable=False),
    UniqueConstraint("client_id", "pipeline", "key"),
    Index("ix_stageflow_tombstones_pruned", "pruned_at"),
)

ticks = Table(
    "stageflow_ticks",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("at", Double, nullable=False),
)

limits = Table(
    "stageflow_limits",
    metadata,
    Column("name", NAME, primary_key=True),
    # Of the newest definition: how many slots each key has; of a rate limit its burst, and how many come in a second.
    Column("amount", Integer, nullable=False),
    Column("per_second", Double),
    # What a person has set instead; and until when nothing of it is given, and who said so.
    Column("set_amount", Integer),
    Column("paused_until", Double),
    Column("said", Text),
)

# Locked before slots of it are looked at: several in the order of their names and keys, behind the run's row.
pools = Table(
    "stageflow_pools",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("key", NAME, primary_key=True),
    # Of a rate limit: how many tokens there were, and when; NULL: none was taken yet.
    Column("tokens", Double),
    Column("filled_at", Double),
    Column("paused_until", Double),
    Column("said", Text),
)

slots = Table(
    "stageflow_slots",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("run", ID, primary_key=True),
    Column("strand", NAME, primary_key=True),
    Column("stage", NAME, primary_key=True),
    # 0: it waits for a slot.
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("gen", Integer, nullable=False),
    Column("owner", String(64)),
    Column("rank", Integer, nullable=False),
    Column("since", Double, nullable=False),
    Column("turn", Text, nullable=False),
    Column("short", Boolean, nullable=False),
    Column("behind", Text, nullable=False),
    Column("offered_at", Double),
    Column("passed_at", Double),
    # Its attempt was lost, and may act until then.
    Column("until", Double),
    Index("ix_stageflow_slots_run", "run"),
    Index(
        "ix_stageflow_slots_offered",
        "offered_at",
        postgresql_where=text("offered_at IS NOT NULL"),
        sqlite_where=text("offered_at IS NOT NULL"),
    ),
    Index(
        "ix_stageflow_slots_lost",
        "until",
        postgresql_where=text("until IS NOT NULL"),
        sqlite_where=text("until IS NOT NULL"),
    ),
)

sinks = Table(
    "stageflow_sinks",
    metadata,
    # Who is told of events, and how far. ``fence`` rises when another process begins to tell it.
    Column("name", NAME, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("fence", Integer, nullable=False, server_default=text("0")),
    Column("owner", String(64)),
    Column("expires_at", Double),
    # How often in a row it refused the event that comes next, what it said, and from when on it is tried again.
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("error", Text),
    Column("retry_at", Double),
    Column("delivered_at", Double),
    Column("created_at", Double, nullable=False),
)
