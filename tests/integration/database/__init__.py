"""Databases as they are met: behind poolers, without rights, full."""
