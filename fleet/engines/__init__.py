"""Engines: what turns a prompt into text. `base` is the contract; the other modules are its implementations."""
