"""A judge of answers: any model behind an endpoint with OpenAI's protocol (Ollama, vLLM, a cloud).

The prompt, the judge's raw answer and the score are stored for every item. An item has no score if the judge refuses
it, gives no valid score or times out. Other items are not affected.
"""

import math
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import httpx
from pydantic import Field, model_validator

from gpt.config import Config
from pipelines.corpus.sources import Address
from pipelines.errors import InputError

PROMPT = """\
Judge how well an answer follows an instruction. Do not explain.

Instruction:
{instruction}

A good answer:
{response}

The answer to be judged:
{answer}

Reply with one whole number from 1 (useless) to 10 (perfect), and with nothing else."""


PLACES = re.compile(r"\{(instruction|response|answer)\}")


UNMARKED: dict[str, Any] = {"fingerprint": False}  # changes no fingerprint


class JudgeConfig(Config):
    """The model that judges answers, how it is asked, and how long it may take."""

    url: Address = Field(json_schema_extra=UNMARKED)
    """Address of the endpoint, such as http://localhost:11434/v1."""
    model: str
    """The judge's name at the endpoint."""
    key_variable: str | None = Field(None, json_schema_extra=UNMARKED)
    """Environment variable that holds the key; the key itself is never stored."""
    prompt: str = PROMPT
    """The prompt, with {instruction}, {response} and {answer} in it."""
    lowest: int = 1
    """Lowest score."""
    highest: int = 10
    """Highest score."""
    timeout: float = Field(60, gt=0, json_schema_extra=UNMARKED)
    """Seconds to wait for an answer."""
    retries: int = Field(2, ge=0, json_schema_extra=UNMARKED)
    """Further attempts after a time-out, a busy or a broken server."""
    workers: int = Field(4, gt=0, json_schema_extra=UNMARKED)
    """Questions asked at a time."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ValueError(f"url is no address: {error}") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("url must begin with http:// or https://")
        if "{answer}" not in self.prompt:
            raise ValueError("prompt must hold {answer}")
        if self.lowest >= self.highest:
            raise ValueError("lowest must be below highest")
        return self


@dataclass(frozen=True)
class Verdict:
    """A judge's prompt and raw answer. The score is None if it failed; `status` then says why."""

    prompt: str
    answer: str
    score: float | None
    status: str


def judge(
    items: Sequence[dict[str, str]],
    config: JudgeConfig,
    progress: Callable[[int], None] = lambda done: None,
    pause: float = 1.0,
) -> list[Verdict]:
    """Return a verdict on each item (instruction, response, answer), in order.

    Args:
        items: the texts to fill into the prompt, by name.
        config: the judge.
        progress: receives the number of items that are done.
        pause: seconds before the first retry. The pause doubles with each further one.

    Raises:
        InputError: the key's environment variable is not set.
    """
    key = key_of_judge(config)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    verdicts = []
    with httpx.Client(timeout=config.timeout, headers=headers) as client, ThreadPoolExecutor(config.workers) as pool:
        for verdict in pool.map(lambda item: _ask(client, item, config, pause), items):
            verdicts.append(verdict)
            progress(len(verdicts))
    return verdicts


def key_of_judge(config: JudgeConfig) -> str:
    """Return the key of the judge's endpoint; empty if it needs none.

    Raises:
        InputError: its environment variable is not set.
    """
    key = os.environ.get(config.key_variable) if config.key_variable else ""
    if key is None:
        raise InputError(f"evaluate.judge.key_variable: the environment has no variable {config.key_variable}.")
    return key


def _ask(client: httpx.Client, item: dict[str, str], config: JudgeConfig, pause: float) -> Verdict:
    prompt = PLACES.sub(lambda match: item[match[1]], config.prompt)
    body = {"model": config.model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
    status = ""
    for attempt in range(config.retries + 1):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            reply = client.post(f"{config.url.rstrip('/')}/chat/completions", json=body)
            reply.raise_for_status()
            answer = reply.json()["choices"][0]["message"]["content"] or ""
        except httpx.TimeoutException:
            status = "timed out"
        except httpx.HTTPStatusError as error:
            code = error.response.status_code
            status = f"refused: HTTP {code}"
            if code < 500 and code not in (408, 429):
                break
        except httpx.RequestError as error:
            status = f"unreachable: {type(error).__name__}"
        except (ValueError, LookupError, TypeError):
            return Verdict(prompt, reply.text, None, "nonsense: not the protocol's reply")
        else:
            score = read_score(str(answer), config)
            return Verdict(prompt, str(answer), score, "nonsense: no score" if score is None else "scored")
    return Verdict(prompt, "", None, status)


def read_score(answer: str, config: JudgeConfig) -> float | None:
    """Return the score in a judge's answer: its first number, if it is within the bounds. `8/10` is 8.

    The model's thoughts before the answer, in `<think>`, do not count.
    """
    text = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)
    found = re.search(r"(?<![\w.,-])-?\d+(?:\.\d+)?", text)
    score = float(found[0]) if found else math.nan
    return score if config.lowest <= score <= config.highest else None
