"""One-machine mode: a broker from a wheel, a SQLite file and supervised processes, in one directory."""
