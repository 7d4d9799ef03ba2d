"""Lines and warnings on standard error."""

from flows.console import say, warn


def test_sentences_are_printed_whole_and_unchanged(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    sentence = "A sentence with [brackets], which is longer than the terminal is wide."
    say(sentence)
    warn(sentence)
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [sentence, f"! {sentence}"] and not printed.out
