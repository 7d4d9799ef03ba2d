"""`tokenmill chat`: a conversation with an assistant in the terminal, or with the lines of a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import typer
from pydantic import Field, ValidationError

from flows.commands.options import current_home
from flows.commands.text_input import input_lines
from flows.environment import expand_user
from flows.terminal import results
from flows.tracking.registry import find_model
from gpt.config import Config
from gpt.generate import Sampling
from pipelines.corpus.conversation import Message
from pipelines.errors import InputError
from pipelines.models.language_model import Assistant, open_model

HELP = """\
Ctrl-C stops an answer, Ctrl-D leaves.

  /reset            forget the conversation
  /system TEXT      give the assistant a system prompt; without TEXT, take it away
  /set NAME VALUE   change how answers are drawn: {settings}
  /set              show the settings
  /model NAME       continue with another assistant
  /save FILE        append the conversation to a file, in JSON Lines that fine-tuning reads
  /help             this page
  /quit             leave
"""


class Settings(Config):
    """The settings of answers, as `/set` shows and changes them."""

    temperature: float = Field(0.0, ge=0)
    """0 takes the likeliest token; above 0, tokens are drawn."""
    max_new_tokens: int = Field(120, gt=0)
    """Longest answer, in tokens."""
    top_k: int = Field(50, ge=0)
    """Draw among the k likeliest tokens; 0 draws among all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw among the likeliest that reach this probability."""
    seed: int = Field(0, ge=0)
    """The same seed gives the same answers."""

    def sampling(self, turn: int) -> Sampling:
        """Return the settings of the answer in a turn. Each turn has a seed of its own."""
        return Sampling(**self.model_dump() | {"top_k": self.top_k or None, "seed": self.seed + turn})

    def replace(self, name: str, value: str) -> Settings:
        """Return the settings with another value for one of them.

        Raises:
            InputError: there is no such setting, or it cannot have this value.
        """
        if name not in Settings.model_fields:
            raise InputError(f"There is no setting {name!r}; there are {', '.join(Settings.model_fields)}.")
        try:
            return Settings.model_validate(self.model_dump() | {name: value})
        except ValidationError as error:
            raise InputError(f"{name} cannot be {value!r}: {error.errors()[0]['msg'].lower()}.") from None


class Chat:
    """A conversation with an assistant, and the commands that its user may type."""

    def __init__(self, reference: str | None, settings: Settings, system: str = "") -> None:
        self.open(reference)
        self.settings, self.system = settings, system
        self.messages: list[Message] = []

    def run(self, lines: Iterator[str]) -> None:
        """Handle each line, until the lines end or one is `/quit`."""
        for line in lines:
            if line.strip() == "/quit":
                return
            try:
                self.handle(line.strip())
            except InputError as error:
                typer.echo(str(error), err=True)

    def handle(self, line: str) -> None:
        """Run a command, or answer a message.

        Raises:
            InputError: the command fails, or the message is too long.
        """
        if line.startswith("/"):
            command, _, rest = line[1:].partition(" ")
            if command not in COMMANDS:
                raise InputError(f"There is no command /{command}; /help lists what there is.")
            COMMANDS[command](self, rest.strip())
        elif line:
            self.answer(line)

    def answer(self, line: str) -> None:
        """Stream the answer to a message. An answer that Ctrl-C stops stays in the conversation, cut off."""
        messages = [*self.messages, Message(role="user", content=line)]
        sampling = self.settings.sampling(turn=len(self.messages) // 2)
        room = min(sampling.max_new_tokens, self.assistant.gpt.config.context // 2)
        try:
            prompt = self.assistant.prompt(self.with_system(messages), room)
        except ValueError as error:
            raise InputError(f"That cannot be answered: {error}.") from None
        pieces: list[str] = []
        out = results()
        try:
            for piece in self.assistant.stream(prompt, sampling):
                pieces.append(piece)
                print(piece, end="", file=out, flush=True)
        except KeyboardInterrupt:
            typer.echo(" (stopped)", err=True)
            if not pieces:
                return
        print(file=out, flush=True)
        self.messages = [*messages, Message(role="assistant", content="".join(pieces).strip())]

    def with_system(self, messages: list[Message]) -> list[Message]:
        """Return messages below the system prompt, if there is one."""
        return [Message(role="system", content=self.system), *messages] if self.system else messages

    # Commands

    def reset(self, _: str) -> None:
        """Forget the conversation."""
        self.messages = []

    def set_system(self, text: str) -> None:
        """Set the system prompt."""
        self.system = text

    def set(self, text: str) -> None:
        """Change a setting, or print them all."""
        name, _, value = text.replace("=", " ").partition(" ")
        if name:
            self.settings = self.settings.replace(name, value.strip())
            return
        for name, info in Settings.model_fields.items():
            typer.echo(f"{name:<14} {getattr(self.settings, name):<8} {info.description}")

    def open(self, reference: str | None) -> None:
        """Continue with the assistant of this name, by default the newest.

        Raises:
            InputError: there is no such model, or it is no assistant.
        """
        model = open_model((found := find_model(reference or None, task="instruction")).path)
        if not isinstance(model, Assistant):
            raise InputError(f"{found} is no assistant; `tokenmill models` shows what there is.")
        self.assistant = model

    def save(self, file: str) -> None:
        """Append the conversation to a file."""
        if not self.messages or not file:
            raise InputError("Name the file: /save FILE." if self.messages else "There is nothing to save yet.")
        messages = [{"role": each.role, "content": each.content} for each in self.with_system(self.messages)]
        try:
            with expand_user(Path(file)).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise InputError(f"{file} cannot be written: {error.strerror}.") from None
        typer.echo(f"{len(self.messages)} turns saved in {file}", err=True)

    def help(self, _: str) -> None:
        """Print the commands."""
        typer.echo(HELP.format(settings=", ".join(Settings.model_fields)), nl=False)


COMMANDS: dict[str, Callable[[Chat, str], None]] = {
    "reset": Chat.reset,
    "system": Chat.set_system,
    "set": Chat.set,
    "model": Chat.open,
    "save": Chat.save,
    "help": Chat.help,
}


def run_chat(reference: str | None, settings: Settings, system: str = "") -> None:
    """Chat until the user leaves, or until the lines of a pipe are answered."""
    Chat(reference, settings, system).run(_typed() if sys.stdin.isatty() else input_lines())


def _typed() -> Iterator[str]:
    from prompt_toolkit.completion import WordCompleter

    from flows.commands.prompt import typed_lines

    typer.echo("/help shows what to type, Ctrl-D leaves.", err=True)
    commands = WordCompleter([f"/{name}" for name in (*COMMANDS, "quit")], sentence=True)
    return typed_lines(current_home().path, "chat", "> ", completer=commands)
