"""Sagas: which undo comes next (pure), and adapters that compile to stage options."""
