"""A logits processor for vLLM's engine process that a prompt with the word "strychnine" kills, as a bug would."""

import os
import signal
from typing import Any

from vllm.v1.sample.logits_processor import LogitsProcessor


class Poison(LogitsProcessor):
    """Does nothing else. Named in vLLM's engine arguments as "logits_processors"."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool):  # noqa: ARG002
        from vllm.tokenizers import get_tokenizer

        self._tokenizer = get_tokenizer(vllm_config.model_config.tokenizer)

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: Any) -> None:
        for _, _, prompt, _ in batch_update.added if batch_update else ():
            if "strychnine" in self._tokenizer.decode(prompt):
                os.kill(os.getpid(), signal.SIGKILL)

    def apply(self, logits: Any) -> Any:
        return logits
