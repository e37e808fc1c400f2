"""Deployment: what the compose file's worker, beat and Flower run. It imports the library, never the reverse."""
