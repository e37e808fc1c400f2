"""What happens to a run, as pure functions: the loaded facts, what happened, and the clock make a :class:`Change`.

One module for each kind of transition. None of them knows SQL: a store loads the facts, lets a transition decide, and
applies the change (``stageflow_durable/state/apply.py``). This room imports ``model``, ``saga`` and the standard
library.
"""
