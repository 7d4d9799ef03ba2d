"""The judge against a server with OpenAI's protocol: scores, refusals, nonsense, time-outs."""

import json
import time
from http.server import BaseHTTPRequestHandler

import pytest
from pydantic import ValidationError

from pipelines.errors import InputError
from pipelines.evaluation.judge import JudgeConfig, judge, read_score


class Endpoint(BaseHTTPRequestHandler):
    """Answers as the prompt asks. `busy` and `broken` fail at the first request only."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (message,) = body["messages"]
        what = message["content"].rsplit("do:", 1)[1].strip()
        self.server.asked.append((self.path, self.headers.get("Authorization"), body["model"], what))
        first = [each[3] for each in self.server.asked].count(what) == 1
        if what == "slow":
            time.sleep(1)
        code = {"refuse": 401, "busy": 429 if first else 200, "broken": 500 if first else 200, "dead": 503}.get(
            what, 200
        )
        content = {"good": "8", "chatty": "I'd say 7/10.", "nonsense": "blue", "high": "11", "null": None}.get(
            what, "5"
        )
        text = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})
        if what == "html":
            text = "<html>"
        if what == "empty":
            text = '{"choices": []}'
        try:
            self.send_response(code)
            if what == "garbled":
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(text.encode())
        except OSError:
            pass  # the client has timed out


@pytest.fixture
def endpoint(serve):
    server = serve(Endpoint)
    server.asked = []
    return server


def config(server, **more):
    url = f"http://127.0.0.1:{server.server_port}/v1/"
    return JudgeConfig(url=url, model="small", prompt="{instruction} {answer}", **more)


def ask(server, *whats, **more):
    items = [{"instruction": "rate", "response": "", "answer": f"do:{what}"} for what in whats]
    return judge(items, config(server, **more), pause=0.01)


def test_verdicts_keep_prompt_answer_and_score_or_failure(endpoint):
    whats = ["good", "chatty", "nonsense", "high", "null", "refuse", "busy", "broken", "dead", "html", "empty"]
    verdicts = dict(zip(whats, ask(endpoint, *whats), strict=True))
    assert {what: verdict.score for what, verdict in verdicts.items()} == {
        **dict.fromkeys(whats),
        "good": 8,
        "chatty": 7,
        "busy": 5,
        "broken": 5,
    }
    assert {what: verdict.status for what, verdict in verdicts.items() if verdict.score is None} == {
        "nonsense": "nonsense: no score",
        "high": "nonsense: no score",
        "null": "nonsense: no score",
        "refuse": "refused: HTTP 401",
        "dead": "refused: HTTP 503",
        "html": "nonsense: not the protocol's reply",
        "empty": "nonsense: not the protocol's reply",
    }
    assert verdicts["chatty"].answer == "I'd say 7/10." and verdicts["chatty"].prompt == "rate do:chatty"
    assert verdicts["html"].answer == "<html>"
    attempts = [each[3] for each in endpoint.asked]
    assert (attempts.count("dead"), attempts.count("refuse"), attempts.count("busy")) == (3, 1, 2)
    assert {each[0] for each in endpoint.asked} == {"/v1/chat/completions"}


def test_garbled_reply_fails_its_item_only(endpoint):
    garbled, good = ask(endpoint, "garbled", "good", retries=0)
    assert garbled.score is None and garbled.status == "unreachable: DecodingError" and good.score == 8


def test_slow_reply_fails_its_item_only(endpoint):
    slow, good = ask(endpoint, "slow", "good", timeout=0.3, retries=0, workers=1)
    assert (slow.score, slow.status, good.score) == (None, "timed out", 8)


def test_missing_endpoint_fails_every_item(endpoint):
    gone = config(endpoint, retries=1).model_copy(update={"url": "http://127.0.0.1:9/v1"})
    (verdict,) = judge([{"instruction": "", "response": "", "answer": ""}], gone, pause=0.01)
    assert verdict.status.startswith("unreachable") and verdict.score is None


def test_key_comes_from_the_environment_and_is_never_stored(endpoint, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "a-secret")
    (verdict,) = ask(endpoint, "good", key_variable="JUDGE_KEY")
    assert endpoint.asked[0][1] == "Bearer a-secret" and endpoint.asked[0][2] == "small"
    assert "a-secret" not in repr(verdict) and "a-secret" not in config(endpoint, key_variable="K").model_dump_json()
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(InputError, match="no variable JUDGE_KEY"):
        ask(endpoint, "good", key_variable="JUDGE_KEY")


def test_placeholders_in_an_answer_are_not_filled(endpoint):
    items = [{"instruction": "{answer} {response}", "response": "secret", "answer": "do:good"}]
    (verdict,) = judge(items, config(endpoint), pause=0.01)
    assert verdict.prompt == "{answer} {response} do:good"


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("8", 8),
        ("Score: 8/10", 8),
        ("**7**", 7),
        ("8.5", 8.5),
        ("<think>maybe 3 or 4</think> 9", 9),
        ("-8", None),
        ("0", None),
        ("100", None),
        ("gpt4", None),
        ("eight", None),
        ("", None),
    ],
)
def test_score_is_the_first_number_within_bounds(answer, score):
    assert read_score(answer, JudgeConfig(url="http://x/v1", model="m")) == score


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"url": "ftp://x"}, "http://"),
        ({"url": "http://x:port/v1"}, "url is no address"),
        ({"url": "http://me:secret@x/v1"}, "carries a password or a token"),
        ({"prompt": "rate it"}, "must hold"),
        ({"lowest": 10}, "lowest must be below highest"),
    ],
)
def test_invalid_judge_config_is_rejected(wrong, sentence):
    with pytest.raises(ValidationError, match=sentence):
        JudgeConfig(**{"url": "http://x/v1", "model": "m"} | wrong)
