"""The chat through standard input: answers, commands, errors, and Ctrl-C."""

import json
from types import SimpleNamespace

import pytest
import torch
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from typer.testing import CliRunner

from flows.cli import app
from flows.commands import chat
from flows.commands.chat import Chat, Settings
from gpt.config import gpt_config
from gpt.model import GPT
from gpt.weights import save_model
from pipelines.corpus.conversation import Message
from pipelines.corpus.examples import ExamplesConfig, ExampleSource
from pipelines.models.language_model import Assistant, LanguageModel, as_assistant
from pipelines.tokens.characters import count_characters
from pipelines.tokens.templates import save_template, template_named

PLAIN = template_named("plain")
TOKENIZER = count_characters([PLAIN.user, PLAIN.assistant, "abcdefghijklmnopqrstuvwxyz .?!"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assistant")
    torch.manual_seed(3)
    gpt = GPT(gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=128))
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.3)  # so that the prompt decides the answer
    save_model(as_assistant(LanguageModel(gpt, TOKENIZER), PLAIN).gpt, folder)
    TOKENIZER.save(folder)
    save_template(PLAIN, folder / "template.json")
    return folder


@pytest.fixture
def talk(folder, monkeypatch):
    """Return a function that feeds lines to `tokenmill chat` and returns its standard output and error."""
    monkeypatch.setattr(chat, "find_model", lambda reference, task: SimpleNamespace(path=folder))

    def run(*lines, options=()):
        done = CliRunner().invoke(app, ["chat", "--max-new-tokens", "6", *options], input="\n".join(lines) + "\n")
        assert done.exit_code == 0, done.output
        return done.stdout, done.stderr

    return run


def test_piped_lines_are_answered_in_turn_and_reproducibly(talk):
    answers, errors = talk("hello?", "", "and you?")
    assert answers.count("\n") >= 2 and errors == ""
    assert talk("hello?", "", "and you?") == (answers, errors)
    first, _ = talk("hello?")
    assert answers.startswith(first)
    reset, _ = talk("hello?", "/reset", "hello?")
    assert reset == first * 2
    assert talk("hello?", "/quit", "and you?")[0] == first


def test_settings_change_and_wrong_ones_are_one_sentence(talk):
    plain, _ = talk("hello?")
    drawn, _ = talk("/set temperature 3", "hello?", "/set temperature=0", "/reset", "hello?")
    assert drawn.endswith(plain) and drawn != plain * 2
    same, _ = talk("hello?", options=["--temperature", "3"])
    assert drawn == same + plain
    longer, _ = talk("/set max_new_tokens 12", "hello?")
    assert len(longer) > len(plain) and longer.startswith(plain.rstrip("\n"))
    shown, errors = talk("/set", "/set heat 3", "/set temperature hot", "/set top_p 2", "/sett")
    assert "temperature    0.0" in shown
    assert errors.splitlines() == [
        "There is no setting 'heat'; there are temperature, max_new_tokens, top_k, top_p, seed.",
        "temperature cannot be 'hot': input should be a valid number, unable to parse string as a number.",
        "top_p cannot be '2': input should be less than or equal to 1.",
        "There is no command /sett; /help lists what there is.",
    ]


def test_system_prompt_is_set_and_removed(talk):
    plain, _ = talk("hello?")
    changed, _ = talk("/system be kind.", "hello?")
    assert talk("hello?", options=["--system", "be kind."])[0] == changed != plain
    assert talk("/system be kind.", "/system", "hello?")[0] == plain


def test_fine_tuning_reads_a_saved_conversation(talk, tmp_path):
    file = tmp_path / "kept.jsonl"
    _, errors = talk("/save nowhere.jsonl", "/system be kind.", "hello?", f"/save {file}", f"/save {tmp_path}/no/where")
    assert errors.splitlines() == [
        "There is nothing to save yet.",
        f"2 turns saved in {file}",
        f"{tmp_path}/no/where cannot be written: No such file or directory.",
    ]
    talk("hello?", "more?", f"/save {file}")
    first, second = (json.loads(line)["messages"] for line in file.read_text().splitlines())
    assert [each["role"] for each in first] == ["system", "user", "assistant"] and len(second) == 4
    assert first[1]["content"] == "hello?"
    ExamplesConfig(sources=(ExampleSource(uri=str(file), conversation="messages"),))


def test_history_is_cut_by_turns_and_long_lines_rejected(talk):
    fresh, _ = talk("/set max_new_tokens 6", "b?")
    after = talk("/set max_new_tokens 6", "a" * 75, "b?")[0].splitlines()
    assert "".join(after[1:]) + "\n" == fresh  # the first exchange no longer fits beside the second
    answer, errors = talk("a" * 200, "b?")
    assert errors.startswith("That cannot be answered: the message is longer than the 122 tokens")
    assert answer == fresh


def test_another_model_continues_the_conversation(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        chat, "find_model", lambda reference, task: asked.append(reference) or SimpleNamespace(path=folder)
    )
    done = CliRunner().invoke(
        app, ["chat", "--model", "one"], input="/set max_new_tokens 2\nhi\n/model two@champion\nhi\n"
    )
    assert done.exit_code == 0 and asked == ["one", "two@champion"]


def test_help_lists_every_command(talk):
    shown, _ = talk("/help")
    assert all(f"/{name} " in shown for name in (*chat.COMMANDS, "quit"))


def test_ctrl_c_stops_the_answer_only(folder, monkeypatch, capsys):
    monkeypatch.setattr(chat, "find_model", lambda reference, task: SimpleNamespace(path=folder))
    talk = Chat("any", Settings(max_new_tokens=4))
    stops = iter([1, 0])

    def stream(self, *arguments):
        for number in range(3):
            if number == next(stops, None):
                raise KeyboardInterrupt
            yield f"word{number} "

    monkeypatch.setattr(Assistant, "stream", stream)
    stops = iter([5, 1])
    talk.run(iter(["first?"]))
    out, err = capsys.readouterr()
    assert out == "word0 \n" and "(stopped)" in err
    assert talk.messages == [Message(role="user", content="first?"), Message(role="assistant", content="word0")]
    stops = iter([0])
    talk.run(iter(["second?"]))
    assert len(talk.messages) == 2  # an empty answer is not kept
    stops = iter([])
    talk.run(iter(["third?"]))
    assert talk.messages[-1].content == "word0 word1 word2"


def test_terminal_gets_a_prompt_and_a_history(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("hello?\rhalf a line\x03/help\r\x04")  # Ctrl-C drops a line, Ctrl-D leaves
        assert list(chat._typed()) == ["hello?", "/help"]
    assert "+hello?" in (tmp_path / ".tokenmill" / "chat_history").read_text()
