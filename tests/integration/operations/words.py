"""The descriptions of a task that kill what reads them; apart from `killing`, whose import changes Fleet."""

DECIDING, RECORDING, ANSWERING = "kills who decides", "kills who records", "kills who answers"
