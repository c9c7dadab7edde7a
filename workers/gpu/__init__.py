"""The GPU worker, `celery -A workers.gpu worker`, and what starts one per device, `python -m workers.gpu`."""
