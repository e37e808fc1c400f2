"""The keeper: one process outside of each sandbox that starts it, bounds it, and leaves nothing of it behind.

It runs as a program of its own, with an empty environment and the standard library alone. A worker has threads, forks,
and may be killed; the keeper has one thread, which starts the sandbox and outlives it. It ends the sandbox when its
starter is gone, and the kernel ends the sandbox when the keeper is.
"""
