"""Publishing: the remaining stages of a strand compile to a Celery chain, whose links all say "look at this strand".

Links carry ids only, so each has a constant size. Long strands compile in segments, and the worker that carries the
last link of one compiles the next from the rows. Since stages continue in place, one link carries many stages and the
chain is short. Where messages are made from templates (``template``: on Redis, by default), only the first link of a
segment is sent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from celery import Celery, chain
from celery.exceptions import SoftTimeLimitExceeded
from kombu import exceptions as kombu_exceptions
from kombu.exceptions import ChannelError, OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stageflow_durable.delivery.configure import ADVANCE
from stageflow_durable.delivery.dropped import said_of
from stageflow_durable.delivery.signing import UNSIGNED, Signer
from stageflow_durable.delivery.template import BATCH, CONNECT_SECONDS, QuickPublisher
from stageflow_durable.errors import BrokerUnavailable, PublishingFailed
from stageflow_durable.model.work import Nudge

SEGMENT = 10
"""The most links of one chain: the first message carries the others, and has to stay small."""

NOT_FOUND = "404"

_RETRY = {"max_retries": 2, "interval_start": 0.05, "interval_step": 0.2, "interval_max": 0.5}


MANY = 20
"""The number of messages from which a connection of their own pays off."""

AGAIN_SECONDS = 1.0
"""How long after a failure the next one tries."""

SLOW_SECONDS = 0.1
"""A failure that came sooner is not remembered: to find it out anew holds nobody up."""

TRY_SECONDS = 15.0
"""As long as one try may take: meanwhile nobody else tries. Whoever does not come back is not waited for longer."""

_REPEATS = frozenset({"retry_on_timeout", "retry_on_error", "retry"})

# kombu 5.7 added an error of batches. Some messages may have been sent then; a second one has no effect.
_AWAY = (OperationalError, OSError, RedisError, getattr(kombu_exceptions, "BatchPublishError", OperationalError))


@contextmanager
def _bulk_producer(app: Celery) -> Iterator[Any]:
    """A producer that sends many messages in one batch if kombu (from 5.7) and the transport can; else one by one."""
    with app.connection_for_write(connect_timeout=CONNECT_SECONDS) as connection:
        # kombu does not batch on a connection that repeats commands after a timeout: that may double messages, which
        # does no harm to ours.
        connection.transport_options = {
            name: value for name, value in connection.transport_options.items() if name not in _REPEATS
        }
        producer = app.amqp.Producer(connection, auto_declare=False)
        with producer.batch(max_size=BATCH) if hasattr(producer, "batch") else nullcontext():
            yield producer


class Outage:
    """While the broker does not answer one caller at a time tries it, ``AGAIN_SECONDS`` after the last; the others are
    told at once. Connecting to a broker that is away takes two seconds and more, and whoever publishes has committed:
    the sweep finds what they leave.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: tuple[str, float] | None = None  # why, and when somebody may try again
        self._answered_at = -math.inf

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """A try to reach the broker. Raises BrokerUnavailable, as the last one did, where nobody is to try now."""
        began, failed = self._clock(), self._failed
        if failed is not None:
            why, again_at = failed
            if began < again_at:
                raise BrokerUnavailable(why)
            # Without a lock: two threads that try at the same moment do no harm.
            self._failed = why, began + TRY_SECONDS
        try:
            yield
        except BrokerUnavailable as error:
            now = self._clock()
            if self._answered_at < began:  # else it has answered another one meanwhile
                slow = now - began > SLOW_SECONDS and _is_away(error.__cause__)
                self._failed = (str(error), now + AGAIN_SECONDS) if slow else None
            raise
        except BaseException:
            self._failed = failed  # it says nothing about the broker: the next one may try
            raise
        self._failed, self._answered_at = None, self._clock()


def _is_away(error: BaseException | None) -> bool:
    """Whether nobody answered: what a broker refuses, as of one queue, it may take from others."""
    cause = error.__cause__ or error if isinstance(error, OperationalError) else error
    return isinstance(cause, OSError | RedisConnectionError | RedisTimeoutError)


class CeleryPublisher:
    """Sends messages through a Celery application. ``templates``: make them from templates if the result is the same.
    ``batches``: send many together. ``signer``: signs them.
    """

    def __init__(
        self,
        app: Celery,
        in_place_stages: int,
        *,
        templates: bool = False,
        batches: bool = True,
        signer: Signer = UNSIGNED,
    ) -> None:
        self._app = app
        self._in_place = in_place_stages
        self._many = MANY if batches else math.inf
        self._signer = signer
        self._outage = Outage()
        self._quick = QuickPublisher(app, BATCH if batches else 1, signer) if templates else None

    def publish(self, nudges: tuple[Nudge, ...], delay: float = 0.0) -> None:
        """Send each nudge's chain. Raises BrokerUnavailable within seconds, and for a second after that at once;
        PublishingFailed for whatever else the application's routers, queues, settings and eager tasks raise. A time
        limit of the caller's goes through.
        """
        with self._outage.attempt():
            self._publish(nudges, delay)

    def _publish(self, nudges: tuple[Nudge, ...], delay: float) -> None:
        try:
            if self._quick is not None and not delay and self._quick.publish(nudges):
                return
            with self._producer(len(nudges)) as producer:
                for nudge in nudges:
                    self._send(nudge, delay, producer)
        except SoftTimeLimitExceeded:
            raise
        except _AWAY as error:
            raise BrokerUnavailable(f"the broker did not take the message: {said_of(error)}") from error
        except Exception as error:
            raise PublishingFailed(f"the message could not be published: {said_of(error)}") from error

    def _producer(self, count: int) -> AbstractContextManager[Any]:
        found: AbstractContextManager[Any] = self._app.producer_or_acquire()
        return found if count < self._many else _bulk_producer(self._app)

    def _send(self, nudge: Nudge, delay: float, producer: Any) -> None:
        options: dict[str, Any] = {"producer": producer, "retry": True, "retry_policy": _RETRY, "ignore_result": True}
        if delay:
            options["countdown"] = delay
        # Else Celery computes the representation of every argument for every message.
        options |= {"argsrepr": f"({nudge.run_id!r}, {nudge.address!r})", "kwargsrepr": "{}"}
        links = self.compile(nudge)
        (links[0] if len(links) == 1 else chain(*links)).apply_async(**options)

    def close(self) -> None:
        """Close the connections of this publisher; the next message opens new ones."""
        if self._quick is not None:
            self._quick.close()

    def compile(self, nudge: Nudge) -> list[Any]:
        """The links of the next segment of a strand."""
        count = min(SEGMENT, math.ceil(nudge.links / self._in_place))
        return [self._link(nudge, number) for number in range(count)]

    def _link(self, nudge: Nudge, number: int) -> Any:
        options = {"queue": nudge.queue} | ({} if nudge.priority is None else {"priority": nudge.priority})
        arguments = (nudge.run_id, nudge.address, nudge.gen, self._signer.mark(nudge, number))
        return self._app.signature(ADVANCE, args=arguments, immutable=True, options=options)

    def depth(self, queue: str) -> int | None:
        """How many messages wait in the queue; None when the broker does not say."""
        try:
            with self._app.connection_for_write(connect_timeout=2.0) as connection:
                channel = connection.default_channel
                return int(channel.queue_declare(queue=queue, passive=True).message_count)
        except ChannelError as error:
            # Redis has no empty lists, so an empty queue does not exist there.
            return 0 if str(error.reply_code) == NOT_FOUND else None
        except Exception:  # noqa: BLE001  # every transport has errors of its own; the sweep can handle None
            return None
