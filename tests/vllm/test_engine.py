"""The engine itself, with an adapter and a model that thinks before it answers."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fleet.engines.base import Generation, Message
from fleet.stack import vllm
from workers.gpu.engine import VllmEngine
from workers.gpu.loading import Recipe

pytestmark = pytest.mark.timeout(900)  # engines start in 20 to 60 s, some tests need several

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "minLength": 1, "maxLength": 40}},
    "required": ["answer"],
    "additionalProperties": False,
}


def make_adapter(folder: Path, model: Path) -> Path:
    """A LoRA adapter of rank 4 with large random weights, under which the model says something else."""
    config = json.loads((model / "config.json").read_text())
    size, layers = config["hidden_size"], config["num_hidden_layers"]
    torch.manual_seed(0)
    weights = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(4, size)
        weights[f"{name}.lora_B.weight"] = torch.randn(size, 4)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    described = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**described, "task_type": "CAUSAL_LM"}))
    return folder


@pytest.fixture(scope="module")
def engine(vllm_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    os.environ.update(vllm.ENVIRONMENT)
    args: dict[str, Any] = {
        **vllm.SMALL_MODEL["gpu_engine_args"],
        "max_lora_rank": 8,
        "reasoning_parser": "until_full_stop",
        "reasoning_parser_plugin": str(Path(__file__).with_name("thinking.py")),
    }
    adapter = make_adapter(tmp_path_factory.mktemp("adapters") / "mine", vllm_model)
    engine = VllmEngine(Recipe(str(vllm_model), 4, args, {"mine": str(adapter)}))
    engine.load()
    yield engine
    engine.close()


def asked(**changes: Any) -> Generation:
    messages = (Message("user", "Which animal is the largest? Think, then answer as JSON."),)
    return Generation(**{"messages": messages, "schema": SCHEMA, "max_tokens": 300, "temperature": 0.0, **changes})


def test_a_model_that_thinks_answers_by_the_schema_and_its_thoughts_are_kept_apart(engine: VllmEngine) -> None:
    heard: list[str] = []
    completion = engine.generate(asked(on_text=lambda text, _: heard.append(text)))
    assert completion.finish_reason == "stop"
    assert len(completion.reasoning) > 5
    assert set(json.loads(completion.text)) == {"answer"}
    assert "".join(heard).strip() == completion.text.strip()


def test_an_adapter_changes_what_the_model_says_and_names_itself(engine: VllmEngine) -> None:
    plain, again = engine.generate(asked()), engine.generate(asked())
    adapted = engine.generate(asked(adapter="mine", max_tokens=60))
    assert plain.text == again.text
    assert (adapted.reasoning, adapted.text) != (plain.reasoning, plain.text)
    assert (plain.model, adapted.model) == (engine.model, "mine")
    assert engine.state().adapters == ("mine",)
