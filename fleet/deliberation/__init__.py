"""How a council deliberates, without any I/O: schemas, prompts, labels, reading answers, ranking, selection."""
