"""Which category an error is of: the policy's own word first, then an HTTP status, then the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.retry import table
from stageflow_durable.retry.look import attribute
from stageflow_durable.retry.table import Category


def classify(error: BaseException | str, policy: RetryPolicy) -> Category:
    """Return the category of ``error`` under ``policy``.

    Asked in this order, the first answer counts: ``policy.category_of``; ``retry_on`` and ``give_up_on``, the nearest
    ancestor first; the members of an ``ExceptionGroup`` (the severest counts); a refusal by a content filter; an HTTP
    status on the error or its response (``status_code``, ``status``, ``code``); the table of types and names, the
    nearest first. A text, which is what ``StageOutput.fail("…")`` has, is permanent, or transient with
    ``retry_on_fail``. A ``category_of`` that raises, or answers what is no category, makes it a bug, and a note on
    the error says so.
    """
    if isinstance(error, str):
        return Category.TRANSIENT if policy.retry_on_fail else Category.PERMANENT
    answers = (answer for look in _LOOKS if (answer := look(error, policy)) is not None)
    return next(answers, Category.UNKNOWN)


def categories(extension: Mapping[type[BaseException] | str, str]) -> Callable[[BaseException], Category | None]:
    """Return a ``category_of`` for a policy that extends the table.

    ``extension``: exception types, or names like ``"stripe.error.RateLimitError"`` (which need no import), to
    categories: ``RetryPolicy(category_of=categories({CardDeclined: "permanent"}))``. Subclasses are meant too, the
    nearest ancestor counts. Raises ValueError for what is no category.
    """
    known = {kind: Category(category) for kind, category in extension.items()}

    def category_of(error: BaseException) -> Category | None:
        return next((known[key] for kind in type(error).__mro__ for key in (kind, _name(kind)) if key in known), None)

    return category_of


def _by_policy(error: BaseException, policy: RetryPolicy) -> Category | None:
    if policy.category_of is None:
        return None
    try:
        answer = policy.category_of(error)
        return None if answer is None else Category(answer)
    except Exception as failure:  # the application's code; failing here would lose the error it was asked about  # noqa: BLE001  # whatever the application's function raises is its bug
        error.add_note(f"category_of failed on this error: {type(failure).__name__}: {failure}")
        return Category.BUG


def _by_lists(error: BaseException, policy: RetryPolicy) -> Category | None:
    for kind in type(error).__mro__:
        if kind in policy.give_up_on:
            return Category.PERMANENT
        if kind in policy.retry_on:
            return Category.TRANSIENT
    return None


def _by_members(error: BaseException, policy: RetryPolicy) -> Category | None:
    if not isinstance(error, BaseExceptionGroup):
        return None
    found = {classify(member, policy) for member in error.exceptions}
    return next(category for category in table.SEVEREST_FIRST if category in found)


def _by_code(error: BaseException, _: RetryPolicy) -> Category | None:
    code = attribute(error, "code")
    return Category.POLICY if isinstance(code, str) and code in table.POLICY_CODES else None


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
        if isinstance(status, int) and status in table.HTTP_ERRORS:
            yield status


def _by_table(error: BaseException, policy: RetryPolicy) -> Category | None:
    reason = attribute(error, "reason")  # urllib's URLError tells nothing by itself
    if _name(type(error)) == "urllib.error.URLError" and isinstance(reason, Exception):
        return classify(reason, policy)
    return next((answer for kind in type(error).__mro__ if (answer := _of_type(kind, error)) is not None), None)


def _of_type(kind: type, error: BaseException) -> Category | None:
    if kind is OSError:
        return Category.TRANSIENT if attribute(error, "errno") in table.TRANSIENT_ERRNOS else None
    return table.BY_TYPE.get(kind) or table.BY_NAME.get(_name(kind))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


_LOOKS = (_by_policy, _by_lists, _by_members, _by_code, _by_status, _by_table)
