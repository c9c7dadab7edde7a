"""A GPU worker's application without vLLM, which is not installed here: what the settings name answers instead."""

from workers.gpu.celery import app

app.steps["worker"].discard("workers.gpu.bootstep:EngineHost")

__all__ = ["app"]
