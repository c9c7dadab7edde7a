"""Fleet: councils of LLM agents as a durable task queue."""

__version__ = "0.1.0"
