"""Celery workers that host a model themselves."""
