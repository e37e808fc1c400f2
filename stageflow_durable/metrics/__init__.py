"""Metrics for Prometheus: counted from the history and from the tables, by whoever is asked for them."""
