"""What a scripted agent would like to say; `conform` then fits it to the schema asked for."""

from collections.abc import Sequence
from typing import Any, Protocol

from fleet.engines.conform import Schema, Share
from fleet.engines.scripted_artifacts import artifact, broken_artifact, language_for, quality


class Pick(Protocol):
    def __call__(self, options: Sequence[Any], path: str, /) -> Any: ...


_STRATEGIES = (
    "Start with the smallest change that can be measured",
    "Write the acceptance test first and let it fail",
    "Separate the decision from the effect, then build both",
    "Keep the old path beside the new one until both agree",
    "Settle the data first; the code follows from it",
)
_STEPS = (
    "Write down what has to hold and how it is checked",
    "Build the core without any input or output",
    "Connect it to its callers behind the existing interface",
    "Cover every requirement with a test that fails without it",
    "Measure it, then remove what the measurement does not need",
    "Roll it out to one user first and watch the error rate",
    "Write the page that a newcomer reads first",
)
_RISKS = (
    "An input that nobody thought of; bounded by validation at the edge",
    "A slow dependency; bounded by a timeout and a retry with a limit",
    "A change of the format; versioned, and both versions are read",
)
_CONFIDENCE = {"excellent": 0.95, "poor": 0.05, "concise": 0.6}
_LENGTH = {"excellent": 5, "verbose": 7, "concise": 2}


class Author:
    """One agent with one question before it."""

    def __init__(self, behaviour: str, tags: dict[str, Any], requirements: list[str], pick: Pick):
        self.behaviour, self.tags, self.requirements, self.pick = behaviour, tags, requirements, pick

    def wish(self, schema: Schema) -> Any:
        """What this agent would answer, for every field name that Fleet's schemas have; None for other schemas."""
        properties = schema.get("properties", {})
        order = self.order(properties)
        wishes = {**self._proposal(properties), **self._opinion(order, properties)}
        known = {name: value for name, value in wishes.items() if name in properties}
        return {name: known.get(name) for name in properties} if known else None

    def order(self, properties: Schema) -> list[str]:
        """Labels of the candidates, best first."""
        candidates = self.tags.get("candidates")
        if isinstance(candidates, dict) and candidates:
            by_luck = sorted(candidates, key=lambda label: int(self.pick(range(1 << 30), f"tie {label}")))
            return sorted(by_luck, key=lambda label: quality(candidates[label] or {}), reverse=True)
        ranking = properties.get("ranking", {})
        if orders := ranking.get("enum"):
            return _labels(str(self.pick(orders, "ranking")))
        labels = ranking.get("items", {}).get("enum", [])
        return sorted(labels, key=lambda label: int(self.pick(range(1 << 30), f"tie {label}")))

    def _proposal(self, properties: Schema) -> dict[str, Any]:
        file = properties.get("artifacts", {}).get("items", {}).get("properties", {})
        language = language_for(str(self.tags.get("role", "")), file.get("language", {}).get("enum"))
        confidence = Share(_CONFIDENCE.get(self.behaviour, 0.75))
        if self.behaviour == "poor":
            return {"summary": "Do it.", "approach": "Just do it.", "steps": ["Go"], "risks": [],
                    "artifacts": [broken_artifact(language)], "confidence": confidence}  # fmt: skip
        named = self.requirements if self.behaviour in ("excellent", "verbose") else self.requirements[:2]
        count = _LENGTH.get(self.behaviour, 3)
        longest = file.get("content", {}).get("maxLength", 100_000)
        return {
            "summary": f"{self.pick(_STRATEGIES, 'summary')}: {'; '.join(self.requirements[:count])}.",
            "approach": self._approach(count),
            "steps": [_STEPS[(self._start() + index) % len(_STEPS)] for index in range(count)],
            "artifacts": [artifact(language, [self._signature(), *named], longest)],
            "risks": list(_RISKS[: max(1, count // 2)]),
            "confidence": confidence,
        }

    def _approach(self, count: int) -> str:
        text = f"{self.pick(_STRATEGIES, 'approach')}. "
        if self.behaviour == "concise":
            return text.strip()
        text += " ".join(f"For this it has to hold: {name}." for name in self.requirements[:count])
        return f"{text} " * 4 if self.behaviour == "verbose" else text

    def _start(self) -> int:
        return int(self.pick(range(len(_STEPS)), "steps"))

    def _signature(self) -> str:
        return f"variant {self.pick(range(1000), 'variant')}, round {self.tags.get('round', 0)}"

    def _opinion(self, order: list[str], properties: Schema) -> dict[str, Any]:
        asked = properties.get("critiques", {}).get("prefixItems", [])
        labels = [part["properties"]["label"]["enum"][0] for part in asked] or order
        orders = properties.get("ranking", {}).get("enum")
        return {
            "critiques": [self._critique(label, label in order[:-1]) for label in labels],
            "ranking": _nearest_order(order, orders) if orders else order,
        }

    def _critique(self, label: str, good: bool) -> dict[str, str]:
        missing = self.pick(self.requirements, f"flaw {label}")
        return {
            "label": label,
            "strength": f"{label} says how its result is checked." if good else f"{label} is short.",
            "flaw": f"{label} leaves open: {missing}.",
            "fix": f"Name it as a step of its own and add a test: {self.pick(_STEPS, f'fix {label}')}.",
        }


def requirements_of(tags: dict[str, Any], prompt: str, task: str) -> list[str]:
    """At least one text: what the tags list, else the lines with a dash in the prompt's task, else the task's first."""
    given = tags.get("requirements")
    lines = [str(text) for text in given] if isinstance(given, (list, tuple)) else []
    asked = (line.strip() for line in prompt.partition("</task>")[0].splitlines())
    lines = lines or [line.removeprefix("- ") for line in asked if line.startswith("- ")]
    lines = lines or [line.strip() for line in task.splitlines() if line.strip()][:1]
    return [line[:200].rstrip(". ") for line in lines if line.strip(". ")][:20] or ["the task as it was given"]


def _labels(order: str) -> list[str]:
    return [label.strip() for label in order.split(">")]


def _nearest_order(order: list[str], allowed: list[str]) -> str:
    """The allowed order ("B>A>C") with the fewest pairs the other way round than in `order`."""
    place = {label: index for index, label in enumerate(order)}

    def inversions(option: str) -> int:
        places = [place.get(label, len(order)) for label in _labels(option)]
        return sum(a > b for index, a in enumerate(places) for b in places[index + 1 :])

    return min(allowed, key=inversions)
