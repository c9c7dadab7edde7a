"""The server of the engine `openai`."""

from collections.abc import Iterator

import httpx2

from fleet.cli.checkup.part import Part
from fleet.settings import Settings

_TIMEOUT_S = 5.0
_REFUSED = (401, 403)


def engine(settings: Settings) -> Iterator[Part]:
    """Whether it answers, takes the key and has the model; only where FLEET_ENGINE_URL is set."""
    if settings.engine != "openai" or "engine_url" not in settings.model_fields_set:
        return
    url, key = settings.engine_url.rstrip("/"), settings.engine_key.get_secret_value()
    try:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = httpx2.get(f"{url}/models", headers=headers, timeout=_TIMEOUT_S, trust_env=False)
    except httpx2.TransportError as error:
        state = f"{url} does not answer: {error or type(error).__name__}"
        yield Part("engine", False, state, "start the model server, or check FLEET_ENGINE_URL")
        return
    if answer.status_code in _REFUSED:
        state = f"{url} refuses the key with {answer.status_code}" if key else f"{url} asks for a key"
        yield Part("engine", False, state, "set FLEET_ENGINE_KEY to a key of that server")
        return
    try:
        served = [str(model["id"]) for model in answer.json()["data"]]
    except (ValueError, KeyError, TypeError):
        yield Part("engine", False, f"{url}/models answers {answer.status_code}, and no models", _WRONG_URL)
        return
    yield Part("engine", True, f"answers at {url}")
    yield _model(settings.model, served)


_WRONG_URL = "check FLEET_ENGINE_URL: it ends in /v1 for most servers"


def _model(wanted: str | None, served: list[str]) -> Part:
    those = ", ".join(served[:5]) or "none"
    if wanted is None:
        state = f"none is asked for, and the server has {those}"
        return Part("engine model", len(served) == 1, state, "set FLEET_MODEL to one of them")
    state = f"{wanted} is served" if wanted in served else f"{wanted} is not served; the server has {those}"
    return Part("engine model", wanted in served, state, "set FLEET_MODEL to one of them, or have the server load it")
