"""The small default model in the form that vLLM reads: `python -m workers.gpu.smollm2` prints its folder."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from fleet.engines import models
from fleet.errors import ModelUnavailable

FOLDER = "SmolLM2-135M-Instruct"
NEEDED_BYTES = 300 * 2**20


def safetensors_folder(cache_dir: Path | None = None) -> Path:
    """The folder with the default model in safetensors, made from its GGUF file in about 20 s unless the cache has it.

    Processes that want it at once wait for the one that makes it; what was cut off leaves nothing that looks whole.

    Raises:
        ModelUnavailable: as `models.fetch`, or transformers is missing, or the disk is full.
    """
    source = models.locate(models.DEFAULT_MODEL, cache_dir)
    folder = source.parent / FOLDER
    try:
        with models.locked(source.parent / f".{FOLDER}.lock"):
            if not folder.is_dir():
                _make(source, folder)
    except (OSError, ImportError) as error:
        raise ModelUnavailable(f"cannot make {folder} of {source.name}: {error}") from error
    return folder


def _make(source: Path, folder: Path) -> None:
    if (free := shutil.disk_usage(folder.parent).free) < NEEDED_BYTES:
        raise ModelUnavailable(f"{FOLDER} needs {NEEDED_BYTES >> 20} MiB in {folder.parent}, {free >> 20} MiB are free")
    for left_behind in folder.parent.glob(".convert-*"):  # by a process that was killed: the lock is ours
        shutil.rmtree(left_behind, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=folder.parent) as staging:
        made = Path(staging) / FOLDER
        _convert(source, made)
        os.sync()  # a rename must not outlive the files' contents in a power cut
        made.rename(folder)


def _convert(source: Path, folder: Path) -> None:
    """Writes config, weights in bfloat16, tokenizer and chat template, all of them read out of the GGUF file."""
    # Here, since torch takes seconds to import and a cache that has the model needs none.
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    wanted = {"gguf_file": source.name, "local_files_only": True}
    packed = GgufConfig(dequantize=True)
    read = AutoModelForCausalLM.from_pretrained(source.parent, quantization_config=packed, **wanted)
    config = AutoConfig.from_pretrained(source.parent, **wanted)
    vars(config).pop("_model_name_or_path", None)  # the name of a training run
    # A model that came from a GGUF file refuses to be saved, one with the same weights does not.
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, **wanted).save_pretrained(folder)


def main() -> int:
    """Prints the folder; one line on stderr and status 1 when there can be none."""
    try:
        print(safetensors_folder())
    except ModelUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
