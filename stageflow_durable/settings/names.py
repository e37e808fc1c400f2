"""Mistyped names: a setting that would be silently ignored is refused, with the name that was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stageflow_durable.settings.values import PARSERS, variable

PREFIX = "STAGEFLOW_"
_VARIABLES = {variable(name) for name in PARSERS}
# Of the test suite, not of the engine.
_OTHERS = re.compile(r"STAGEFLOW_(TEST_.+|REQUIRE_SERVICES)")
# What Kubernetes puts into each pod for a service called stageflow, or stageflow-anything.
_KUBERNETES = re.compile(
    r"STAGEFLOW_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)

_ABBREVIATED = {"db": "database", "pg": "database", "uri": "url", "dsn": "url", "secs": "seconds", "sec": "seconds"}


def mistyped_variables(environment: Iterable[str]) -> list[str]:
    """A line for each variable whose name nearly is one of ours; unrelated names and Kubernetes' are fine."""
    return [
        f"{name} is not a setting; did you mean {' or '.join(near)}?"
        for name in sorted(environment)
        if not _is_known(name) and (near := _near_variables(name))
    ]


def mistyped_keys(keys: Iterable[str], where: str, *, others: Iterable[str] = ()) -> list[str]:
    """A line for each unknown key of a place that is ours alone, with the nearest name where there is one; ``others``:
    names that are no settings, but known there.
    """
    return [f"{where}{key}{_did_you_mean(_near(key, others))}" for key in sorted(keys) if key not in PARSERS]


def _near(name: str, others: Iterable[str]) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name.lower(), [*others], n=1, cutoff=0.66) or near_names(name)


def near_names(name: str) -> list[str]:
    """The settings that ``name`` may stand for: nearly the same letters, or some of the same words."""
    from difflib import get_close_matches

    words = {_ABBREVIATED.get(word, word): None for word in name.lower().replace("-", "_").split("_")}
    asked = "_".join(words)
    sharing = [known for known in PARSERS if words and words.keys() <= set(known.split("_"))]
    return get_close_matches(asked, PARSERS, n=1, cutoff=0.66) or sharing


def _is_known(name: str) -> bool:
    return name in _VARIABLES or bool(_OTHERS.fullmatch(name) or _KUBERNETES.fullmatch(name))


def _near_variables(name: str) -> list[str]:
    if name.upper().startswith(PREFIX):
        return [variable(near) for near in near_names(name[len(PREFIX) :])]
    return _near_prefix(name)


def _near_prefix(name: str) -> list[str]:
    # STAGE_FLOW_DATABASE_URL, STAGFLOW_DATABASE_URL: the prefix is wrong, the rest is ours to the letter.
    from difflib import SequenceMatcher

    upper = name.upper()
    for known in PARSERS:
        prefix = upper.removesuffix(known.upper())
        if prefix != upper and SequenceMatcher(None, prefix.replace("_", ""), "STAGEFLOW").ratio() > 0.85:
            return [variable(known)]
    return []


def _did_you_mean(near: list[str]) -> str:
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(PARSERS)}"
    return f" is not a setting; {hint}"
