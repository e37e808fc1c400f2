"""Which category an error is of: the policy's own word first, then an HTTP status, then the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.retry import table
from stageflow_durable.retry.look import MOST_MEMBERS, add_note, attribute, full_name_of, is_a, members, name_of, text
from stageflow_durable.retry.table import Category

Look: TypeAlias = Callable[[BaseException, RetryPolicy], Category | None]

MOST_REASONS = 10
"""How far one error that only wraps another is followed."""


def classify(error: BaseException | str, policy: RetryPolicy) -> Category:
    """Return the category of ``error`` under ``policy``.

    Asked in this order, the first answer counts: ``policy.category_of``; ``retry_on`` and ``give_up_on``, the nearest
    ancestor first; the members of an ``ExceptionGroup`` (the severest counts); a refusal by a content filter; an HTTP
    status on the error or its response (``status_code``, ``status``, ``code``); the table of types and names, the
    nearest first. A text, which is what ``StageOutput.fail("…")`` has, is permanent, or transient with
    ``retry_on_fail``. A ``category_of`` that raises, or answers what is no category, makes it a bug, and a note on
    the error says so. An error that fails while it is looked at is none the wiser known for it: it never raises here.
    """
    if is_a(error, str):
        return Category.TRANSIENT if policy.retry_on_fail else Category.PERMANENT
    assert is_a(error, BaseException)
    found: set[Category] = set()
    waiting: list[Any] = [error]
    looked = 0
    while waiting and looked < MOST_MEMBERS:
        one, looked = waiting.pop(), looked + 1
        answer = _first(_OF_THE_APPLICATION, one, policy)
        inside = members(one) if answer is None else ()
        if inside:
            waiting += inside
        else:
            found.add(answer or _first(_BY_SHAPE, one, policy) or Category.UNKNOWN)
    return next(category for category in table.SEVEREST_FIRST if category in found)


def _first(looks: Iterable[Look], error: BaseException, policy: RetryPolicy) -> Category | None:
    for look in looks:
        try:
            answer = look(error, policy)
        except BaseException:  # noqa: BLE001, S112  # a stranger's error, whose own code was asked
            continue
        if answer is not None:
            return answer
    return None


def categories(extension: Mapping[type[BaseException] | str, str]) -> Callable[[BaseException], Category | None]:
    """Return a ``category_of`` for a policy that extends the table.

    ``extension``: exception types, or names like ``"stripe.error.RateLimitError"`` (which need no import), to
    categories: ``RetryPolicy(category_of=categories({CardDeclined: "permanent"}))``. Subclasses are meant too, the
    nearest ancestor counts. Raises ValueError for what is no category.
    """
    known = {kind: Category(category) for kind, category in extension.items()}

    def category_of(error: BaseException) -> Category | None:
        return next(
            (known[key] for kind in type(error).__mro__ for key in (kind, full_name_of(kind)) if key in known), None
        )

    return category_of


def _by_policy(error: BaseException, policy: RetryPolicy) -> Category | None:
    if policy.category_of is None:
        return None
    try:
        answer = policy.category_of(error)
        return None if answer is None else Category(answer)
    except BaseException as failure:  # noqa: BLE001  # whatever the application's function raises is its bug
        add_note(error, f"category_of failed on this error: {name_of(type(failure))}: {text(failure, 200)}")
        return Category.BUG


def _by_lists(error: BaseException, policy: RetryPolicy) -> Category | None:
    for kind in type(error).__mro__:
        if kind in policy.give_up_on:
            return Category.PERMANENT
        if kind in policy.retry_on:
            return Category.TRANSIENT
    return None


def _by_code(error: BaseException, _: RetryPolicy) -> Category | None:
    code = attribute(error, "code")
    return Category.POLICY if is_a(code, str) and code in table.POLICY_CODES else None


def _by_status(error: BaseException, _: RetryPolicy) -> Category | None:
    status = next(_statuses(error), None)
    if status is None:
        return None
    if status in table.POLICY_STATUSES:
        return Category.POLICY
    return Category.TRANSIENT if status in table.TRANSIENT_STATUSES else Category.PERMANENT


def _statuses(error: BaseException) -> Iterator[int]:
    response = attribute(error, "response")
    said = ((error, "status_code"), (response, "status_code"), (response, "status"), (error, "status"), (error, "code"))
    for holder, name in said:
        status = attribute(holder, name)
        if is_a(status, int) and status in table.HTTP_ERRORS:
            yield status


def _by_table(error: BaseException, policy: RetryPolicy) -> Category | None:
    for _followed in range(MOST_REASONS):
        reason = attribute(error, "reason")  # urllib's URLError tells nothing by itself
        if full_name_of(type(error)) != "urllib.error.URLError" or not is_a(reason, Exception):
            break
        error = reason
        answer = _first(_LOOKS[:-1], error, policy)
        if answer is not None:
            return answer
    return next((answer for kind in type(error).__mro__ if (answer := _of_type(kind, error)) is not None), None)


def _of_type(kind: type, error: BaseException) -> Category | None:
    if kind is OSError:
        return Category.TRANSIENT if attribute(error, "errno") in table.TRANSIENT_ERRNOS else None
    return table.BY_TYPE.get(kind) or table.BY_NAME.get(full_name_of(kind))


_OF_THE_APPLICATION: tuple[Look, ...] = (_by_policy, _by_lists)
_BY_SHAPE: tuple[Look, ...] = (_by_code, _by_status, _by_table)
_LOOKS = (*_OF_THE_APPLICATION, *_BY_SHAPE)
