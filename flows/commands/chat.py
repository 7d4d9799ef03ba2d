"""`tokenmill chat`: a conversation with an assistant in the terminal, or with the lines of a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import typer
from pydantic import Field, ValidationError

from flows.home import Home
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
  /model NAME       go on with another assistant
  /save FILE        append the conversation to a file, in JSON Lines that fine-tuning reads
  /help             this page
  /quit             leave
"""


class Settings(Config):
    """How answers are drawn."""

    temperature: float = Field(default=0.0, ge=0, description="0 takes the likeliest token; above, tokens are drawn.")
    max_new_tokens: int = Field(default=120, gt=0, description="Longest answer, in tokens.")
    top_k: int = Field(default=50, ge=0, description="Draw among the k likeliest tokens; 0 draws among all.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Draw among the likeliest that reach this probability.")
    seed: int = Field(default=0, ge=0, description="The same seed gives the same answers.")

    def changed(self, name: str, value: str) -> Settings:
        """
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
    """A conversation, the assistant that takes part in it, and what its user may type."""

    def __init__(self, reference: str, settings: Settings, system: str = "") -> None:
        self.assistant = open_assistant(reference)
        self.settings, self.system = settings, system
        self.said: list[Message] = []

    def run(self, lines: Iterator[str]) -> None:
        """Answer each line until there are no more, or one of them says `/quit`."""
        for line in lines:
            if line.strip() == "/quit":
                return
            try:
                self.take(line.strip())
            except InputError as error:
                typer.echo(str(error), err=True)

    def take(self, line: str) -> None:
        """Carry out a command, or answer what is said.

        Raises:
            InputError: the command cannot be carried out, or what is said is too long.
        """
        if line.startswith("/"):
            command, _, rest = line[1:].partition(" ")
            if command not in COMMANDS:
                raise InputError(f"There is no command /{command}; /help lists what there is.")
            COMMANDS[command](self, rest.strip())
        elif line:
            self.answer(line)

    def answer(self, line: str) -> None:
        """Stream the answer. What Ctrl-C stops stays in the conversation as far as it went."""
        said = [*self.said, Message(role="user", content=line)]
        context, settings = self.assistant.gpt.config.context, self.settings
        try:
            prompt = self.assistant.prompt(self.with_system(said), min(settings.max_new_tokens, context // 2))
        except ValueError as error:
            raise InputError(f"That cannot be answered: {error}.") from None
        sampling = Sampling(
            settings.max_new_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k or None,
            top_p=settings.top_p,
            seed=settings.seed + len(self.said) // 2,
        )
        pieces: list[str] = []
        try:
            for piece in self.assistant.stream(prompt, sampling):
                pieces.append(piece)
                typer.echo(piece, nl=False)
                sys.stdout.flush()
        except KeyboardInterrupt:
            typer.echo(" (stopped)", err=True)
            if not pieces:
                return
        typer.echo()
        self.said = [*said, Message(role="assistant", content="".join(pieces).strip())]

    def with_system(self, said: list[Message]) -> list[Message]:
        return [Message(role="system", content=self.system), *said] if self.system else said

    # Commands

    def reset(self, _: str) -> None:
        self.said = []

    def set_system(self, text: str) -> None:
        self.system = text

    def set(self, text: str) -> None:
        name, _, value = text.replace("=", " ").partition(" ")
        if name:
            self.settings = self.settings.changed(name, value.strip())
            return
        for name, info in Settings.model_fields.items():
            typer.echo(f"{name:<14} {getattr(self.settings, name):<8} {info.description}")

    def set_model(self, reference: str) -> None:
        self.assistant = open_assistant(reference)

    def save(self, file: str) -> None:
        if not self.said or not file:
            raise InputError("Name the file: /save FILE." if self.said else "There is nothing to save yet.")
        messages = [{"role": each.role, "content": each.content} for each in self.with_system(self.said)]
        try:
            with Path(file).expanduser().open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise InputError(f"{file} cannot be written: {error.strerror}.") from None
        typer.echo(f"{len(self.said)} turns saved in {file}", err=True)

    def help(self, _: str) -> None:
        typer.echo(HELP.format(settings=", ".join(Settings.model_fields)), nl=False)


COMMANDS: dict[str, Callable[[Chat, str], None]] = {
    "reset": Chat.reset,
    "system": Chat.set_system,
    "set": Chat.set,
    "model": Chat.set_model,
    "save": Chat.save,
    "help": Chat.help,
}


def chat(reference: str, settings: Settings, system: str = "") -> None:
    """Talk until the user leaves, or until the lines of a pipe are answered."""
    talk = Chat(reference, settings, system)
    talk.run(_typed() if sys.stdin.isatty() else iter(sys.stdin))


def open_assistant(reference: str) -> Assistant:
    """
    Raises:
        InputError: there is no such model, or it is no assistant.
    """
    model = open_model(find_model(reference).path)
    if not isinstance(model, Assistant):
        raise InputError(f"{reference} is no assistant; see `tokenmill datasets ls model`.")
    return model


def _typed() -> Iterator[str]:
    """Lines as they are typed, with history, completion of commands and the keys of a shell."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory

    history = Home.from_environment().path / ".tokenmill" / "chat_history"
    history.parent.mkdir(parents=True, exist_ok=True)
    commands = WordCompleter([f"/{name}" for name in (*COMMANDS, "quit")], sentence=True)
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)), completer=commands, complete_while_typing=False
    )
    typer.echo("/help shows what to type, Ctrl-D leaves.", err=True)
    while True:
        try:
            yield session.prompt("> ")
        except KeyboardInterrupt:
            continue  # the line is thrown away, the chat is not
        except EOFError:
            return
