"""The only Celery: the application, chains of nudges, the tasks, and what a worker needs to survive."""
