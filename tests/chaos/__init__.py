"""A fleet under load while everything in it is killed, stopped and misled; `make chaos` runs it, see `__main__.py`."""
