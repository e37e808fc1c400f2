"""The other durable engines, each with a worker of two processes and a client.

These modules run in an environment of their own and import nothing of ours but each other: ``.bench`` has the peers and
not this library.
"""
