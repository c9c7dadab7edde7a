"""The real model, fetched once into the user's cache; without a network these tests are skipped, except in CI."""

import importlib.util
import os
from pathlib import Path

import pytest

from fleet.engines import models
from fleet.errors import ModelUnavailable


@pytest.fixture(scope="session")
def model_file() -> Path:
    if (
        importlib.util.find_spec("xllamacpp") is None
    ):  # looked for and not imported: the engine sets how its threads wait
        pytest.skip("xllamacpp is not installed")
    try:
        return models.fetch(models.DEFAULT_MODEL)
    except ModelUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
