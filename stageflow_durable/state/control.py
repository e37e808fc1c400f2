"""Telling SQL that would end a transaction, or change its connection for whoever has it next."""

from __future__ import annotations

import re

_SILENT = re.compile(
    r"""--[^\n]* | /\*.*?\*/ | [eE]'(?:\\.|''|[^'\\])*' | '(?:''|[^'])*' | "(?:""|[^"])*" | \$(\w*)\$.*?\$\1\$""",
    re.DOTALL | re.VERBOSE,
)
"""Comments and quoted text."""

_SUSPECT = re.compile(r"\b(?:commit|rollback|begin|end|abort|transaction)\b", re.IGNORECASE)
_ENDS = re.compile(
    r"""\s*(?:(commit|end|abort)\b(?!\s+prepared\b) | (begin)\b | (start\s+transaction)\b | (prepare\s+transaction)\b
        | (rollback)\b(?!\s+(?:(?:work|transaction)\s+)?to\b)(?!\s+prepared\b))""",
    re.IGNORECASE | re.VERBOSE,
)
_DEFINES = re.compile(r"\s*create\b.*\bbegin\b", re.IGNORECASE | re.DOTALL)
"""A function or a trigger with a body of statements; what this hides the checkpoint finds."""

_LASTS = re.compile(
    r"""^\s*(?:set(?!\s+(?:local|transaction|constraints)\b)|reset|listen|unlisten|discard|prepare|load|pragma|attach|detach)\b
        | \bset_config\s*\( | \bpg_(?:try_)?advisory_lock | \bwith\s+hold\b
        | ^\s*create\s+(?:(?:global|local)\s+)?temp | \binto\s+temp""",
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)


def ends_transaction(sql: str) -> str | None:
    """The words with which a statement in ``sql`` begins, ends or hands over a transaction, or None. Savepoints are
    none of that.
    """
    if _SUSPECT.search(sql) is None:
        return None
    bare = _SILENT.sub(" ", sql)
    if _DEFINES.match(bare) is not None:
        return None
    for statement in bare.split(";"):
        found = _ENDS.match(statement)
        if found is not None:
            return " ".join(found[found.lastindex or 0].upper().split())
    return None


def outlasts_transaction(sql: str) -> bool:
    """Whether what a statement does to its connection may outlast the transaction: settings, locks, temporary tables.
    In doubt it does.
    """
    return _LASTS.search(sql) is not None
