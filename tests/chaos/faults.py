"""The faults of the design, how each is made here, and the tests that show what comes of it.

``python -m tests.chaos.faults`` prints the table of ``docs/explanation/chaos.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CHAOS = "tests/chaos/"
ENGINE = "tests/integration/engine/"
MODEL = "tests/conformance/engine/"
SIMULATION = "tests/simulation/test_simulation.py"


@dataclass(frozen=True, slots=True)
class Fault:
    """``tests``: files, or ``file::test``; ``rest``: what of it is not shown by a real process, or why not."""

    number: int
    what: str
    made: str
    tests: Sequence[str] = ()
    rest: str = ""


_KILLS = (f"{ENGINE}test_kills.py", f"{CHAOS}test_sagas.py", f"{CHAOS}test_takeover.py")
_LINKS = (
    f"{CHAOS}test_processes.py::test_given_children_that_die_around_a_publish_when_the_next_link_is_missing_or_double_then_each_stage_ran_once",
)
_REFUSES = (
    f"{CHAOS}test_broker.py::test_given_runs_under_way_when_the_broker_refuses_for_seconds_then_every_run_comes_to_its_end",
)
_SIGNALLED = (
    f"{CHAOS}test_processes.py::"
    "test_given_a_stage_that_runs_when_its_worker_is_asked_to_end_then_it_ends_after_the_stage"
)
_ODD = f"{CHAOS}test_processes.py::test_given_a_worker_that_is_odd_when_it_works_beside_another_then_it_harms_nothing"
_PROMOTED = (
    f"{CHAOS}test_failover.py::test_given_a_replica_that_lags_when_it_is_promoted_then_what_it_missed_is_delivered_and_what_is_old_dropped",
)
_AOF = f"{CHAOS}test_broker.py::test_given_an_append_only_file_when_the_broker_is_killed_then_runs_go_on_after_it"

FAULTS = (
    Fault(1, "child SIGKILL mid-body", "the body kills its process", _KILLS),
    Fault(
        2, "after the effect, before commit", "the body kills its process after its effect", (f"{CHAOS}test_sagas.py",)
    ),
    Fault(3, "after commit, before the next publish", "killed in Celery's signal before a publish", _LINKS),
    Fault(4, "after publish, before ack", "killed in Celery's signal after a publish", _LINKS),
    Fault(
        5,
        "main SIGKILL alone",
        "SIGKILL to the leader",
        (
            f"{CHAOS}test_processes.py::test_given_a_main_process_that_is_killed_alone_then_its_children_leave_nothing_half_done",
        ),
    ),
    Fault(6, "process group SIGKILL", "a body kills its group", _KILLS),
    Fault(
        7,
        "main SIGSTOP, enqueue, SIGKILL",
        "signals to the group",
        (
            f"{CHAOS}test_processes.py::test_given_a_stopped_main_process_when_runs_come_and_it_is_killed_then_none_is_lost",
        ),
    ),
    Fault(8, "child SIGSTOP past its lease, then SIGCONT", "signals to the child", (f"{ENGINE}test_zombies.py",)),
    Fault(9, "SIGTERM mid-stage", "signal to the leader", (_SIGNALLED,)),
    Fault(
        10,
        "SIGQUIT with and without soft shutdown",
        "signal to the leader; worker_soft_shutdown_timeout 10 s and 0",
        (
            _SIGNALLED,
            f"{CHAOS}test_processes.py::test_given_no_soft_shutdown_when_a_worker_gets_sigquit_then_another_one_does_the_stage_again",
        ),
    ),
    Fault(
        11,
        "SIGTERM twice, SIGKILL",
        "signals to the leader",
        (
            f"{CHAOS}test_processes.py::test_given_two_sigterms_and_a_sigkill_when_another_worker_comes_then_the_stage_is_done_again",
        ),
    ),
    Fault(
        12,
        "a stage that always kills its process",
        "the body kills its process at every attempt",
        (
            f"{CHAOS}test_processes.py::test_given_a_stage_that_kills_its_process_at_every_attempt_then_its_run_is_parked_as_poison",
        ),
    ),
    Fault(
        13,
        "memory hog, OOM kill",
        "a control group with a limit, where the kernel kills; RLIMIT_AS; worker_max_memory_per_child",
        (f"{CHAOS}test_memory.py",),
        "The kernel's kill is skipped where nobody may make a control group",
    ),
    Fault(
        14,
        "max_tasks_per_child=1 under load",
        "worker option",
        (f"{ENGINE}test_pools.py::test_every_pool_carries_runs_and_their_retries_and_undos",),
    ),
    Fault(
        15,
        "spawn instead of fork, engine used before fork",
        "worker_pool spawned; queries at import",
        (f"{ENGINE}test_pools.py", _ODD),
    ),
    Fault(
        16,
        "body longer than the visibility timeout",
        "visibility timeout of 3 s, quick_acks off: else the message does not come again",
        (f"{ENGINE}test_redelivery.py::test_a_stage_that_outlasts_the_visibility_timeout_is_not_run_twice",),
    ),
    Fault(
        17,
        "retry delay longer than it",
        "a delay beyond what Celery carries: no message waits at all",
        (f"{ENGINE}test_attempts.py::test_a_long_delay_holds_no_worker_and_no_message",),
    ),
    Fault(
        18,
        "stage timeout, sync body that ignores it",
        "a body that sleeps, and one that swallows whatever is raised in it; also simulated",
        (f"{CHAOS}test_timeouts.py", SIMULATION),
    ),
    Fault(
        19,
        "timeout inside an undo",
        "an undo that sleeps, and one that swallows; also simulated",
        (
            f"{CHAOS}test_timeouts.py::test_given_an_undo_that_takes_longer_than_its_timeout_then_it_is_called_again_and_each_effect_is_undone_once",
            SIMULATION,
        ),
    ),
    Fault(
        20,
        "clock of one worker ±1 h",
        "its engine gets a clock that is wrong; the time of day of workers, database and broker is moved at once",
        (
            _ODD,
            f"{CHAOS}test_clock.py::test_given_runs_under_way_when_the_clock_of_the_machine_is_moved_then_each_comes_to_its_end",
        ),
        "The machine's is moved by a library before the C library; skipped without a C compiler",
    ),
    Fault(
        21,
        "broker SIGKILL, 1 s and 30 s down, no persistence",
        "a Valkey without an append-only file",
        (
            f"{CHAOS}test_broker.py::test_given_a_broker_that_keeps_nothing_when_it_is_killed_then_the_sweep_delivers_its_messages",
        ),
    ),
    Fault(22, "broker with AOF everysec, always", "CONFIG SET appendfsync", (_AOF,)),
    Fault(
        23,
        "CLIENT KILL normal and pubsub mid-stage",
        "CLIENT KILL, six times in two seconds",
        (
            f"{CHAOS}test_broker.py::test_given_runs_under_way_when_connections_to_the_broker_are_killed_again_and_again_then_none_is_lost",
        ),
    ),
    Fault(
        24,
        "broker SIGSTOP 8 s, 120 s",
        "SIGSTOP to the server",
        (
            f"{CHAOS}test_broker.py::test_given_runs_under_way_when_the_broker_stands_still_then_they_are_recorded_and_every_run_comes_to_its_end",
        ),
    ),
    Fault(
        25,
        "FLUSHALL while queued, while running",
        "FLUSHALL",
        (f"{ENGINE}test_broker_loss.py::test_runs_whose_messages_were_flushed_are_delivered_by_the_sweep",),
    ),
    Fault(
        26,
        "only the idempotency keys deleted",
        "every key of ours is deleted, five times",
        (
            f"{CHAOS}test_broker.py::test_given_runs_under_way_when_only_what_redis_knows_of_keys_is_deleted_then_no_effect_is_doubled",
        ),
    ),
    Fault(27, "maxmemory noeviction during publish, retry, ack", "CONFIG SET maxmemory 1", _REFUSES),
    Fault(
        28,
        "allkeys-lru under load",
        "CONFIG SET, and keys that push others out",
        (
            f"{CHAOS}test_broker.py::test_given_a_broker_that_evicts_what_it_likes_when_it_is_full_then_the_sweep_delivers_what_it_forgot",
        ),
    ),
    Fault(
        29,
        "READONLY replica",
        "REPLICAOF somebody who is not there; a replica that everybody is led to before it is promoted",
        (*_REFUSES, *_PROMOTED),
    ),
    Fault(
        30,
        "promotion of a lagging replica",
        "a replica behind a network that loses what is sent, then REPLICAOF NO ONE; the append-only file of a moment "
        "before in the place of today's",
        (
            *_PROMOTED,
            f"{CHAOS}test_broker.py::test_given_a_replica_that_lagged_when_it_is_promoted_then_what_it_missed_is_delivered_and_what_is_old_dropped",
        ),
    ),
    Fault(
        31,
        "half-open connection",
        "a forwarder between the workers and their broker loses every byte and closes nothing",
        (
            f"{CHAOS}test_failover.py::test_given_connections_that_are_half_open_when_nobody_closes_them_then_workers_find_out_and_go_on",
            f"{CHAOS}test_failover.py::test_given_idle_workers_when_their_connections_are_half_open_then_the_next_runs_are_carried_all_the_same",
        ),
    ),
    Fault(
        32,
        "password or ACL changed under way",
        "CONFIG SET requirepass, and every connection killed; ACL SETUSER -@write, off",
        _REFUSES,
    ),
    Fault(
        33,
        "CLIENT PAUSE",
        "CLIENT PAUSE for 3 s",
        (f"{CHAOS}test_broker.py::test_given_runs_under_way_when_the_broker_pauses_its_clients_then_none_is_lost",),
    ),
    Fault(
        34,
        "database: immediate restart mid-transaction",
        "SIGKILL to the postmaster and its backends under load",
        (f"{ENGINE}test_outages.py::test_workers_recover_from_a_database_that_restarts_under_load",),
    ),
    Fault(
        35,
        "pg_terminate_backend during commit",
        "all backends ended, forty times under load",
        (
            f"{CHAOS}test_database.py::test_given_sagas_under_way_when_backends_are_ended_again_and_again_then_no_outcome_is_lost_or_doubled",
        ),
        "That one falls into a commit is chance; the simulation loses the answer of each commit on purpose",
    ),
    Fault(
        36,
        "database SIGSTOP 30 s",
        "SIGSTOP for 6 s and 30 s",
        (
            f"{CHAOS}test_database.py::test_given_a_database_that_stands_still_beyond_the_lease_then_nobody_is_declared_dead_for_it_alone",
        ),
    ),
    Fault(
        37,
        "connections exhausted",
        "the test takes them all for 6 s and ends the workers'",
        (f"{CHAOS}test_database.py::test_given_no_connection_left_when_workers_lose_theirs_then_they_wait_and_go_on",),
    ),
    Fault(
        38, "deadlock, serialisation failure", "two sessions in opposite orders", ("tests/protocol/test_unpublish.py",)
    ),
    Fault(
        39,
        "disk full",
        "a small disk under SQLite and PostgreSQL is filled, under its log too; the free space that is reported",
        (
            f"{CHAOS}test_disk.py::test_given_a_database_whose_disk_fills_up_when_there_is_space_and_it_runs_again_then_every_run_comes_to_its_end",
            f"{CHAOS}test_files.py::test_given_a_disk_that_fills_up_under_runs_when_there_is_space_again_then_every_run_comes_to_its_end",
            "tests/integration/embedded/test_keeping.py",
        ),
        "Skipped where nobody may mount a disk",
    ),
    Fault(
        40,
        "SQLite busy, locked, read-only",
        "another connection holds the write lock, twice for 3 s; a worker and a client that opened the file mode=ro",
        (
            f"{CHAOS}test_database.py::test_given_a_file_that_somebody_else_locks_for_seconds_then_workers_wait_and_go_on",
            f"{CHAOS}test_files.py::test_given_a_worker_and_a_client_that_may_only_read_then_they_say_so_and_who_may_write_does_the_work",
        ),
    ),
    Fault(
        41,
        "two beats, two sweeps in a tight loop",
        "two processes that do nothing else",
        (f"{ENGINE}test_delivery.py::test_two_sweeps_in_a_tight_loop_beside_dying_workers_change_no_effect",),
    ),
    Fault(
        42,
        "beat SIGKILL between scan and publish",
        "a sweeping process kills itself there",
        (f"{CHAOS}test_recovery.py",),
    ),
    Fault(
        43,
        "sweep against a slow live stage",
        "a stage longer than its lease beside sweeps",
        (f"{ENGINE}test_redelivery.py",),
    ),
    Fault(
        44,
        "enqueuing process SIGKILL between commit and publish",
        "it kills itself there",
        (f"{ENGINE}test_delivery.py::test_a_run_whose_submitter_died_before_it_published_is_delivered_by_the_sweep",),
    ),
    Fault(
        45,
        "worker killed at every sweep",
        "a sweeping process kills itself at each step of a sweep",
        (f"{CHAOS}test_recovery.py",),
    ),
    Fault(
        46,
        "one key submitted by 50, 100, 500 at once",
        "four processes of sixteen threads",
        (f"{ENGINE}test_keys.py",),
        "With 50 and 500",
    ),
    Fault(
        47,
        "garbage on the queue",
        "fourteen kinds of it",
        (f"{ENGINE}test_adoption.py::test_what_strangers_write_to_the_queue_harms_nothing",),
    ),
    Fault(
        48,
        "unknown pipeline, unknown stage, old code in a worker",
        "an older application beside a newer one",
        (f"{ENGINE}test_pools.py::test_a_worker_that_does_not_know_a_pipeline_hands_it_back_to_one_that_does",),
    ),
    Fault(
        49,
        "definition edited between crash and resume",
        "the next worker has another pipeline",
        (
            f"{CHAOS}test_input.py::test_given_a_definition_that_changed_between_a_crash_and_its_recovery_then_only_what_no_longer_fits_is_parked",
        ),
    ),
    Fault(
        50,
        "outputs that cannot be saved",
        "an object, NaN, a ring, 5000 levels, 50 MB",
        (
            f"{CHAOS}test_input.py::test_given_outputs_that_cannot_be_saved_then_each_run_is_parked_with_the_reason_and_its_worker_goes_on",
        ),
    ),
    Fault(51, "keys with quotes, NUL, unicode, 10 KB", "as they are", (f"{CHAOS}test_input.py",)),
    Fault(
        52,
        "resume and compensate at once, 20 times",
        "two threads with one version, and a barrier between reading and writing",
        (f"{CHAOS}test_operators.py",),
    ),
    Fault(
        53,
        "cancel, then kill and restart",
        "SIGKILL to the child, to the worker, to all workers",
        (f"{CHAOS}test_sagas.py",),
    ),
    Fault(
        54,
        "undo that crashes, fails N times, is delivered twice",
        "undos that kill their process; undos that raise; every message is sent twice, with and without Redis",
        (f"{CHAOS}test_sagas.py", f"{MODEL}test_undo_failures.py"),
    ),
    Fault(
        55,
        "monitor killed, its database corrupted",
        "SIGKILL to Flower, and noise in the file that it keeps",
        (f"{CHAOS}test_monitor.py",),
    ),
    Fault(
        56,
        "thirty minutes of a random mix",
        "make soak; two minutes of it in make chaos and in continuous integration",
        (f"{CHAOS}test_soak.py",),
    ),
    Fault(
        57,
        "thousands of messages that nobody can read, between those of runs",
        "LPUSH of 5,000",
        (f"{CHAOS}test_parents.py", f"{ENGINE}test_hostile_messages.py"),
    ),
    Fault(
        58,
        "a mistake of our own in the worker's event loop",
        "what looks at each message raises at every third one",
        (f"{CHAOS}test_parents.py",),
    ),
    Fault(
        59,
        "a worker killed beside one whose children never grow old",
        "SIGKILL to the group; worker_max_tasks_per_child=3 under load",
        (f"{CHAOS}test_parents.py",),
    ),
    Fault(
        60,
        "a process that stands still past its lease in a stage without a timeout",
        "SIGSTOP to the child; its end is confirmed by its parent, its host, itself and a person",
        (f"{CHAOS}test_ends.py", SIMULATION),
    ),
    Fault(61, "SIGTERM to a child mid-stage", "signal to the child", (f"{CHAOS}test_ends.py",)),
    Fault(
        62,
        "messages that a busy worker holds in advance",
        "15 messages behind a body that waits; --prefetch-multiplier 16",
        (f"{CHAOS}test_parents.py",),
    ),
)


def table() -> str:
    """The table, in Markdown."""
    rows = ["| | fault | how it is made | shown by | not shown |", "|---|---|---|---|---|"]
    for fault in FAULTS:
        shown = ", ".join(dict.fromkeys(f"`{test.partition('::')[0].removeprefix('tests/')}`" for test in fault.tests))
        rows.append(
            f"| {fault.number} | {fault.what} | {fault.made or '—'} | {shown or '**nothing**'} | {fault.rest} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
