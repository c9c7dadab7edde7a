"""Labels that hide who wrote what from a reviewer."""

import string
from collections.abc import Sequence

from fleet.models import digest


def shuffle(deliberation_id: str, step: str, agent_id: str, authors: Sequence[str]) -> dict[str, str]:
    """Label (A, B, C, …) → author as `agent_id` sees them in `step`; its own proposal is left out.

    Ordered by SHA-256 of the three ids and the author, so that anyone can repeat it from what is recorded, whatever
    the order of `authors`; each reviewer and each step has an order of its own, against the bias for the first place.

    Raises:
        ValueError: more than 26 authors.
    """
    others = {author for author in authors if author != agent_id}
    if len(others) > len(string.ascii_uppercase):
        raise ValueError(f"{len(others)} authors are more than there are labels")
    order = sorted(others, key=lambda author: digest([deliberation_id, step, agent_id, author]))
    return dict(zip(string.ascii_uppercase, order, strict=False))
