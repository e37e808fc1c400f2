"""The pages about runs in a real browser: ``make test-browser``."""
