"""Decisions about a run, as pure functions: each takes the facts of a run and what happened, and returns a
:class:`Change`.

One module for each kind of transition; ``facts``, ``rows``, ``change`` and ``draft`` are what they share. None of them
knows SQL: a store loads the facts, lets a transition decide, and applies the change
(``stageflow_durable/state/apply.py``). This room imports ``model``, ``saga`` and the standard library.
"""
