"""Celery tasks and the watchdog: thin, they decode, call and encode."""
