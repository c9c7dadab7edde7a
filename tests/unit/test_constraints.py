"""The pinned versions of the two environments that tests run in."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pinned(name: str) -> dict[str, str]:
    """Versions by package; every line that is no comment has to be a package with its version."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]
    return {re.sub("[-_.]+", "-", line.split("==")[0]).lower(): line.split("==")[1] for line in lines}


def test_the_environment_with_vllm_has_the_versions_that_everything_else_is_tested_with() -> None:
    here, vllm = pinned("constraints.txt"), pinned("constraints-vllm.txt")
    assert {name: version for name, version in vllm.items() if here.get(name, version) != version} == {}


def test_the_environment_with_vllm_is_whole_though_it_is_installed_without_dependencies() -> None:
    here, vllm = pinned("constraints.txt"), pinned("constraints-vllm.txt")
    assert set(here) - set(vllm) == {"xllamacpp"}  # the local engine's
    assert {"torch", "transformers", "gguf", "setuptools"} <= set(vllm)
