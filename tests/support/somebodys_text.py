"""Small texts of the kinds that people have: a book, notes, reviews, chats, an export, mails, source code."""

from __future__ import annotations

import csv
import json
import pydoc_data.topics
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TOPICS = sorted(pydoc_data.topics.topics.items())
PARAGRAPHS = [part for _, text in TOPICS[:40] for part in text.split("\n\n") if len(part) > 60]


def write_book(folder: Path) -> Path:
    path = folder / "book.txt"
    path.write_text("\n\n".join(PARAGRAPHS[:150]))
    return path


def write_notes(folder: Path) -> Path:
    notes = folder / "my notes"
    (notes / "older").mkdir(parents=True)
    for number, (name, text) in enumerate(TOPICS[:30]):
        where = notes / "older" if number % 3 else notes
        (where / f"{name}.md").write_text(f"# {name}\n\n{text[:1500]}")
    (notes / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    return notes


def write_reviews(folder: Path) -> Path:
    path = folder / "reviews.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "stars", "what they wrote"])
        for number, text in enumerate(PARAGRAPHS[:120]):
            rows.writerow([number, ["one", "five"][len(text) % 2], f"{text[:200]} {number}"])
    return path


def write_chats(folder: Path) -> Path:
    path = folder / "chats.jsonl"
    with path.open("w") as file:
        for number, text in enumerate(PARAGRAPHS[:120]):
            turns = [("user", f"What does number {number} say?"), ("assistant", text[:150])]
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"id": number, "messages": messages}) + "\n")
    return path


def write_instructions(folder: Path) -> Path:
    path = folder / "alpaca.json"
    rows = [
        {"instruction": f"What does number {number} say?", "input": "", "output": text[:150]}
        for number, text in enumerate(PARAGRAPHS[:120])
    ]
    path.write_text(json.dumps(rows))
    return path


def write_export(folder: Path) -> Path:
    path = folder / "export.parquet"
    rows = [{"url": f"https://example.org/{n}", "body": text, "lang": "en"} for n, text in enumerate(PARAGRAPHS[:150])]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_mailbox(folder: Path) -> Path:
    path = folder / "letters.mbox"
    with path.open("w") as file:
        for number, text in enumerate(PARAGRAPHS[:120]):
            body = text.replace("\nFrom ", "\n>From ")
            file.write(
                f"From ann@example.org Mon Jan  5 10:00:00 2026\nFrom: ann@example.org\nSubject: Number {number}\n"
                f"Message-ID: <{number}@example.org>\n\n{body}\n\n"
            )
    return path


def write_mails(folder: Path) -> Path:
    mails = folder / "mails"
    mails.mkdir()
    for number, text in enumerate(PARAGRAPHS[:120]):
        head = f"From: ann@example.org\nTo: bob@example.org\nSubject: Number {number}\n"
        (mails / f"{number}.eml").write_text(f"{head}Date: Mon, 05 Jan 2026 10:00:00 +0000\n\n{text}\n")
    return mails


def write_code(folder: Path) -> Path:
    code = folder / "code"
    (code / "package").mkdir(parents=True)
    for number, (name, text) in enumerate(TOPICS[:30]):
        lines = "\n".join(f"    # {line}" for line in text[:1200].split("\n"))
        (code / "package" / f"{name.lower()}.py").write_text(f"def topic_{number}():\n{lines}\n    return {number}\n")
    (code / "README.md").write_text(f"# Code\n\n{TOPICS[50][1][:800]}")
    (code / "setup.cfg").write_text("[metadata]\nname = code\n")
    return code


def write_mixture(folder: Path) -> Path:
    mixture = folder / "everything"
    mixture.mkdir()
    for write in (write_notes, write_reviews, write_chats):
        write(mixture)
    return mixture


KINDS = {
    "book": write_book,
    "notes": write_notes,
    "reviews": write_reviews,
    "chats": write_chats,
    "instructions": write_instructions,
    "export": write_export,
    "mailbox": write_mailbox,
    "mails": write_mails,
    "code": write_code,
    "mixture": write_mixture,
}
"""The kinds by name. Each function writes into a folder and returns the path to give to `tokenmill init`."""
