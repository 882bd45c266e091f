"""OpenRLHF's rollout with a remote reward model: the executor that its vLLM workers run, with a stand-in for vLLM."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

from clients.kinds import Check, Client, Place, close


def _executor() -> Any:
    """The class that generates and asks for the reward, without importing what OpenRLHF needs a GPU for.

    ``openrlhf.utils`` imports DeepSpeed on its own; an empty package in its place leaves its modules as they are.
    """
    spec = importlib.util.find_spec("openrlhf")
    assert spec is not None and spec.origin is not None
    utils = types.ModuleType("openrlhf.utils")
    utils.__path__ = [str(Path(spec.origin).parent / "utils")]
    sys.modules["openrlhf.utils"] = utils
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    return SingleTurnAgentExecutor


class _Tokenizer:
    """Characters as tokens."""

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        import torch

        return {"input_ids": torch.tensor([[ord(one) for one in text]])}

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(chr, ids))


class _Engine:
    """In place of vLLM: generates the given text."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def generate(self, *_: Any, **__: Any) -> Any:
        found = types.SimpleNamespace(
            token_ids=[ord(one) for one in self._text], text=self._text, finish_reason="stop", logprobs=None
        )
        return types.SimpleNamespace(outputs=[found])


def _rollouts(place: Place) -> list[dict[str, Any]]:
    sampling = types.SimpleNamespace(max_tokens=1000, logprobs=None)
    executor = _executor()(f"{place.url}/get_reward")

    async def all_of_them() -> list[dict[str, Any]]:
        found = []
        for text, response in zip(place.templated, place.responses, strict=True):
            prompt = text[: text.rindex(response)]
            engine = _Engine(text[len(prompt) :])
            found.append(await executor.execute(prompt, "label", sampling, 4000, _Tokenizer(), engine))
        return found

    return asyncio.run(all_of_them())


def _rewards(place: Place) -> None:
    rollouts = _rollouts(place)
    for rollout in rollouts:
        assert rollout["reward"] is not None, "the executor got no answer that it could use"
    close([rollout["reward"][0] for rollout in rollouts], place.rewards["truthfulness"])


def _scores_and_logs(place: Place) -> None:
    import torch

    for rollout in _rollouts(place):
        assert 0 <= rollout["scores"][0] <= 1
        # OpenRLHF's samples_generator makes a tensor of each, for its logs.
        logged = [torch.tensor([value]).float() for value in rollout["extra_logs"].values()]
        assert logged and all(torch.isfinite(one).all() for one in logged)


def _batch(place: Place) -> None:
    executor = _executor()([f"{place.url}/get_reward"] * 2)
    prompts = [text[: text.rindex(response)] for text, response in zip(place.templated, place.responses, strict=True)]
    halves = asyncio.run(executor._fetch_rewards_via_http(place.templated, prompts, ["label"] * len(prompts)))
    close([reward for half in halves for reward in half["rewards"]], place.rewards["truthfulness"])


CLIENT = Client(
    name="OpenRLHF",
    package="openrlhf",
    alone=("openrlhf>=0.11,<0.12",),
    requirements=("aiohttp>=3.9,<4",),
    checks=(
        Check("A rollout (`SingleTurnAgentExecutor.execute`) gets the reward of its response from `/get_reward`", _rewards),
        Check("Scores are between 0 and 1, and extra logs are numbers that OpenRLHF can log", _scores_and_logs),
        Check("A batch shared between two servers gets its rewards in order", _batch),
    ),
    note="its own code from its wheel, with a stand-in for vLLM; GPU packages were not installed",
)
