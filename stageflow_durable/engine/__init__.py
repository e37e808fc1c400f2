"""Use cases: accept a run, carry a nudge, recover, operate. Knows the store and a publisher, not SQL, Redis or
Celery.
"""
