"""From settings to what a worker loads."""

from typing import Any

import pytest

from fleet.settings import Settings
from workers.gpu.loading import LoadFailed, Recipe


def recipe(**settings: Any) -> Recipe:
    return Recipe.from_settings(Settings(**{"gpu_model": "org/model", **settings}), slots=16)


def test_engine_arguments_are_passed_on_as_they_are() -> None:
    assert recipe(gpu_engine_args={"max_model_len": 4096}).engine_args == {"max_model_len": 4096}


def test_a_worker_without_a_model_is_refused() -> None:
    with pytest.raises(LoadFailed, match="FLEET_GPU_MODEL names no model"):
        recipe(gpu_model=None)


@pytest.mark.parametrize("said", [{"model": "org/other"}, {"max_num_seqs": 3}])
def test_engine_arguments_that_contradict_the_worker_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(LoadFailed, match="FLEET_GPU_ENGINE_ARGS says"):
        recipe(gpu_engine_args=said)


def test_the_profile_of_a_thinking_model_names_its_reasoning_parser() -> None:
    profiles = {"DEV": {"model": "org/model", "reasoning_parser": "qwen3"}, "QA": {"model": "org/other"}}
    assert recipe(profiles=profiles).engine_args == {"reasoning_parser": "qwen3"}
    assert recipe(profiles=profiles, gpu_model="org/other").engine_args == {}
    with pytest.raises(LoadFailed, match="several reasoning parsers"):
        recipe(profiles=profiles, gpu_engine_args={"reasoning_parser": "mine"})


def test_a_folder_can_be_called_what_others_call_its_model() -> None:
    served = recipe(gpu_model="/models/m", gpu_engine_args={"served_model_name": "org/m"})
    assert (served.name, recipe().name) == ("org/m", "org/model")


def test_profiles_that_disagree_about_the_reasoning_parser_are_refused() -> None:
    with pytest.raises(LoadFailed, match="several reasoning parsers"):
        recipe(profiles={"DEV": {"reasoning_parser": "one"}, "QA": {"reasoning_parser": "other"}})
