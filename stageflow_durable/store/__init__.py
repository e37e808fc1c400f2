"""What the engine asks of a store, and what every store shares: the values that pass between them, the chain of events,
and what it vouches for. The SQL store is ``state``.
"""
