"""The labels of examples: mistakes in them that show before anything is trained."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from pipelines.errors import InputError
from pipelines.numbers import counted
from pipelines.visible import cut, one_line

FEW = 10  # examples, up to which labels that differ say nothing
MISSING = {"nan", "null", "<na>", "n/a"}  # as which programs write that there is no value
PLAIN = re.compile(r"[^\s,']+")  # a label that needs no quotes in a list
INTEGER = re.compile(r"([+-]?\d+)\.0+")


def check_labels(counts: Counter[str], train: Counter[str], warn: Callable[[str], None]) -> None:
    """Warn about labels that look like a mistake.

    Args:
        counts: the number of examples of each label.
        train: the same in the train split.
        warn: receives a sentence for each kind of mistake.

    Raises:
        InputError: a classifier cannot learn the labels.
    """
    if counts.total() > FEW:
        _check_numbers(counts, train, warn)
    alike = defaultdict(list)
    for label in counts:
        alike[_letters(label)].append(label)
    if same := [label for group in alike.values() if len(group) > 1 for label in group]:
        warn(f"labels that differ only in case, white space or hidden characters are different labels: {listed(same)}")
    if missing := [label for label in counts if label.casefold() in MISSING]:
        number = sum(counts[label] for label in missing)
        warn(f"{counted(number, 'example')} with a label that looks like a missing value: {listed(missing)}")


def listed(labels: Iterable[str], most: int = 6) -> str:
    """Return labels as a list for a sentence. Long labels and long lists are cut."""
    shown = [one_line(cut(label, 60)) for label in labels]
    quoted = [label if PLAIN.fullmatch(label) else f"'{label}'" for label in shown]
    return ", ".join(quoted[:most]) + (f" and {len(quoted) - most:,} more" if len(quoted) > most else "")


def _check_numbers(counts: Counter[str], train: Counter[str], warn: Callable[[str], None]) -> None:
    n, once = counts.total(), [label for label, number in counts.items() if number == 1]
    if len(train) < 2:
        seen = f"the one label {listed(train)}" if train else "no example"
        raise InputError(f"{n:,} examples: the train split has {seen}; a classifier needs two labels to learn.")
    if len(once) == n:
        raise InputError(
            f"{n:,} examples, {n:,} labels: each label occurs once, so nothing can be learnt from them. Are `text` and "
            "`label` swapped?"
        )
    if len(counts) > n / 2:
        warn(f"{n:,} examples, {len(counts):,} labels: are `text` and `label` swapped?")
    elif once:
        warn(f"{counted(len(once), 'label')} with one example, which cannot be both learnt and tested: {listed(once)}")


def _letters(label: str) -> str:
    """Return what two labels have in common that a person takes for one."""
    shown = "".join(letter for letter in label.casefold() if unicodedata.category(letter) != "Cf")
    words = " ".join(shown.split())
    number = INTEGER.fullmatch(words)
    return number[1] if number else words
