from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.corpus.documents import (
    DOCUMENTS,
    Corpus,
    SplitConfig,
    document_id,
    name_texts,
    normalise,
    normalise_all,
    split_of,
)
from pipelines.corpus.ingest import partitions, read
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.ingest.partitions import Partition, plan
from pipelines.corpus.parquet import TableWriter, read_rows
from pipelines.corpus.readers import records
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext
from pipelines.store.store import Store
from pipelines.tokens.tokenize import TOKENIZE

Build = Callable[..., Dataset]


def documents(corpus: Dataset) -> list[dict[str, Any]]:
    return [row for part in Corpus(corpus).parts for row in read_rows(part)]


def rejected(corpus: Dataset) -> list[dict[str, Any]]:
    return list(read_rows(Corpus(corpus).rejected))


def write_lines(path: Path, texts: Iterable[str], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, **more}, ensure_ascii=False) + "\n" for text in texts))
    return path


def several(n: int, size: int = 200) -> list[str]:
    words = random.Random(1)
    return [f"{i} " + "".join(words.choice("abcdefg \n") for _ in range(size)) for i in range(n)]


def test_documents_are_normalised_named_by_their_content_and_kept_once(build: Build, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["  e\u0301\r\nline\r", "\u00e9\nline", " \n ", "other"])
    corpus = build(INGEST, {"sources": [{"uri": str(path)}]})
    kept = documents(corpus)
    assert [row["text"] for row in kept] == ["é\nline", "other"]
    assert all(row["doc_id"] == document_id(row["text"]) for row in kept)
    assert [row["n_bytes"] for row in kept] == [7, 5]
    assert [(row["reason"], row["location"], row["kept"]) for row in rejected(corpus)] == [
        ("empty", "a.jsonl line 3", None),
        ("exact duplicate", "a.jsonl line 2", kept[0]["doc_id"]),
    ]
    statistics = corpus.manifest.statistics
    assert (statistics["documents"], statistics["bytes"], statistics["rejected"]) == (2, 12, 2)
    assert sum(statistics[f"documents_{split}"] for split in ("train", "validation", "test")) == 2


def test_cleaning_is_in_the_declared_order_and_each_step_counts(build: Build, tmp_path: Path) -> None:
    text = "schÃ¶n  gesagt\nThis site uses cookies.\nwrite to a@example.org"
    path = write_lines(tmp_path / "a.jsonl", [text, "untouched"])
    names = ["redact", "unicode", "whitespace", "boilerplate"]
    corpus = build(INGEST, {"sources": [{"uri": str(path)}], "clean": names})
    assert [row["text"] for row in documents(corpus)] == ["schön gesagt\nwrite to [EMAIL]", "untouched"]
    assert {name: corpus.manifest.statistics[f"cleaned_{name}"] for name in names} == dict.fromkeys(names, 1)
    plain = build(INGEST, {"sources": [{"uri": str(path)}]})
    assert documents(plain)[0]["text"] == text
    assert not any(name.startswith("cleaned_") for name in plain.manifest.statistics)


def test_consecutive_records_are_joined_into_documents(build: Build, tmp_path: Path) -> None:
    rows = [("Genesis", 1, "a"), ("Genesis", 1, "b"), ("Genesis", 2, "c"), ("Exodus", 2, "d")]
    lines = [json.dumps({"book": book, "chapter": chapter, "text": text}) for book, chapter, text in rows]
    (tmp_path / "verses.jsonl").write_text("\n".join(lines))
    source = {"uri": str(tmp_path / "verses.jsonl"), "group_by": ["book", "chapter"], "separator": " / "}
    kept = documents(build(INGEST, {"sources": [source]}))
    assert [row["text"] for row in kept] == ["a / b", "c", "d"]
    assert kept[0]["location"] == "verses.jsonl line 1 to 2"
    assert json.loads(kept[2]["metadata"]) == {"book": "Exodus", "chapter": 2}


def test_duplicates_are_found_across_sources_and_the_first_one_stays(build: Build, tmp_path: Path) -> None:
    texts = several(50)
    first = write_lines(tmp_path / "one/a.jsonl", texts[:30])
    second = write_lines(tmp_path / "two/a.jsonl", texts[20:])
    corpus = build(
        INGEST,
        {
            "sources": [{"uri": str(first), "name": "one"}, {"uri": str(second), "name": "two"}],
            "partition_bytes": 1000,
        },
    )
    kept = documents(corpus)
    assert [row["text"] for row in kept] == [normalise(text) for text in texts]
    assert [row["source"] for row in kept] == ["one"] * 30 + ["two"] * 20
    assert {row["source"] for row in rejected(corpus)} == {"two"} and len(rejected(corpus)) == 10


@given(st.lists(st.text(max_size=9) | st.sampled_from([" a", "\r\n", "\x1f", "e\u0301"]), max_size=9))
def test_many_texts_are_normalised_as_each_alone(texts: list[str]) -> None:
    assert normalise_all(texts) == [normalise(text).encode() for text in texts]


@given(st.text(max_size=50))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    try:
        once = normalise(text)
    except UnicodeEncodeError:
        return
    assert normalise(once) == once


@given(st.lists(st.text(min_size=1), min_size=1), st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0, 0.1))
def test_holding_out_more_moves_no_held_out_document(texts: list[str], v: float, t: float, more: float) -> None:
    for text in texts:
        doc_id = document_id(text.encode("utf-8", "replace").decode())
        before = split_of(doc_id, SplitConfig(validation=v, test=t))
        after = split_of(doc_id, SplitConfig(validation=v + more, test=t + more))
        assert before in ("train", after)


@given(st.lists(st.text(), max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_many_texts_are_named_and_placed_as_each_alone(texts: list[str], validation: float, test: float) -> None:
    shares = SplitConfig(validation=validation, test=test * (1 - validation))
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    doc_ids, splits = name_texts([text.encode() for text in texts], shares)
    assert doc_ids.to_pylist() == [document_id(text) for text in texts]
    assert splits.to_pylist() == [split_of(document_id(text), shares) for text in texts]


def test_the_held_out_share_is_what_was_asked_for() -> None:
    shares = SplitConfig(validation=0.2, test=0.1)
    splits = [split_of(document_id(str(i)), shares) for i in range(5000)]
    assert abs(splits.count("validation") / 5000 - 0.2) < 0.02
    assert abs(splits.count("test") / 5000 - 0.1) < 0.02


# Partitions


def corpus_bytes(corpus: Dataset) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in corpus.manifest.files.items()}


def backwards(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """What many workers may do: the last items first."""
    return [function(item) for item in list(items)[::-1]][::-1]


def test_bytes_do_not_depend_on_who_works_in_what_order(tmp_path: Path, build: Build, store: Store) -> None:
    for i in range(20):
        write_lines(tmp_path / f"texts/{i}.jsonl", several(20)[i:])
    config = {"sources": [{"uri": str(tmp_path / "texts")}], "partition_bytes": 3000}
    corpus = build(INGEST, config)
    assert corpus.manifest.statistics["parts"] > 5
    expected = corpus_bytes(corpus)
    store.remove(corpus)
    assert corpus_bytes(build(INGEST, config, map_=backwards)) == expected


@given(
    st.lists(
        st.one_of(
            st.text(max_size=30), st.sampled_from(["", " a\r\n", "e\u0301", "\ud800", None, 7]), st.just("x" * 40)
        ),
        max_size=40,
    ),
    st.integers(1, 400),
    st.integers(64, 2000),
)
@settings(max_examples=60, deadline=None)
def test_blocks_of_records_give_what_the_records_give_one_by_one(texts: list[Any], limit: int, buffer: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "a.jsonl"
        path.write_text("".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)))
        source = {"uri": str(path), "metadata": ["n"]}
        config = IngestConfig.model_validate({"sources": [source], "partition_bytes": 1 << 20})
        (partition,) = plan(config, Path(folder))[0]
        patch.setattr(read, "BATCH_BYTES", limit)
        patch.setattr(records, "BUFFER", buffer)
        found = [(rows.to_pylist(), batch.rejected, batch.counts) for rows, batch in read._batches(partition)]
        assert sum(len(rows) + len(bad) for rows, bad, _ in found) == len(texts)
        patch.setattr(read, "_plain_texts", lambda records, column: [])
        assert found == [(rows.to_pylist(), batch.rejected, batch.counts) for rows, batch in read._batches(partition)]


def test_one_large_file_is_divided_at_line_ends_and_lines_keep_their_numbers(build: Build, tmp_path: Path) -> None:
    texts = several(100)
    path = write_lines(tmp_path / "a.jsonl", texts)
    with path.open("a") as file:
        file.write("broken\n")
    whole = documents(build(INGEST, {"sources": [{"uri": str(path)}]}))
    divided = build(INGEST, {"sources": [{"uri": str(path)}], "partition_bytes": 2000})
    assert documents(divided) == whole and divided.manifest.statistics["parts"] > 5
    assert [row["location"] for row in rejected(divided)] == ["a.jsonl line 101"]


def test_each_piece_of_a_divided_file_is_named_by_what_it_holds(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "x" * (7 * i % 40)}) + "\n" for i in range(200)]
    content = "".join([*lines, '{"text": "the last line has no end"}'])
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    for size in (1, 50, 999, len(content) // 2):
        config = IngestConfig.model_validate({"sources": [{"uri": str(path)}], "partition_bytes": size})
        pieces = [piece for partition in plan(config, tmp_path)[0] for piece in partition.pieces]
        held = [content[piece.start : piece.end] for piece in pieces]
        assert "".join(held) == content and len(held) > 1
        assert all(text.endswith("\n") and size <= len(text) < size + 70 for text in held[:-1])
        assert [piece.sha256 for piece in pieces] == [hashlib.sha256(text.encode()).hexdigest() for text in held]
        assert [piece.lines_before for piece in pieces] == [content[: piece.start].count("\n") for piece in pieces]


def test_many_small_documents_stay_one_part_and_a_few_that_unpack_to_much_do_not(tmp_path: Path, build: Build) -> None:
    config = {"sources": [{"uri": str(tmp_path / "small.jsonl")}], "partition_bytes": 20_000}
    path = write_lines(tmp_path / "small.jsonl", [f"text {i}" for i in range(700)])
    assert path.stat().st_size < 20_000
    assert build(INGEST, config).manifest.statistics["parts"] == 1
    packed = tmp_path / "large.jsonl.gz"
    packed.write_bytes(gzip.compress("".join(json.dumps({"text": f"{i} " * 4000}) + "\n" for i in range(9)).encode()))
    assert packed.stat().st_size < 20_000
    large = build(INGEST, {**config, "sources": [{"uri": str(packed)}]})
    assert large.manifest.statistics["parts"] == 3  # of 24,000 bytes each


def test_a_file_that_is_cut_while_it_is_planned_stops_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "a.jsonl", several(50))
    real = partitions._line_end

    def line_end(stream: Any, at: int) -> int:
        os.truncate(path, 1500)
        return real(stream, at)

    monkeypatch.setattr(partitions, "_line_end", line_end)
    config = IngestConfig.model_validate({"sources": [{"uri": str(path)}], "partition_bytes": 1000})
    with pytest.raises(InputError, match="changed while it was read"):
        plan(config, tmp_path)


def test_a_new_file_moves_only_the_partitions_beside_it(tmp_path: Path) -> None:
    for i in range(200):
        write_lines(tmp_path / f"texts/{i:03d}.jsonl", several(3))
    config = IngestConfig.model_validate({"sources": [{"uri": str(tmp_path / "texts")}], "partition_bytes": 10_000})

    def names(partitions: list[Partition]) -> set[tuple[str, ...]]:
        return {tuple(piece.file.name for piece in partition.pieces) for partition in partitions}

    before = names(plan(config, tmp_path)[0])
    write_lines(tmp_path / "texts/100a.jsonl", several(3))
    after = names(plan(config, tmp_path)[0])
    assert len(before) > 5 and len(after - before) <= 2


def test_a_killed_ingest_goes_on_where_it_was(tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(10):
        write_lines(tmp_path / f"texts/{i}.jsonl", [f"text {i}"])
    config = {"sources": [{"uri": str(tmp_path / "texts")}], "partition_bytes": 1}
    read: list[str] = []
    real = read._records

    def records(piece: partitions.Piece) -> Any:
        read.append(piece.file.name)
        if len(read) == 6:
            raise KeyboardInterrupt
        return real(piece)

    monkeypatch.setattr(read, "_records", records)
    with pytest.raises(KeyboardInterrupt):
        build(INGEST, config)
    assert len(documents(build(INGEST, config))) == 10
    assert len(read) == 11  # the sixth file twice, none of the five before it


# Bad input


def test_bytes_outside_the_encoding_are_rejected_or_repaired(build: Build, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"good " * 500 + b"\xff\xfe" + b" good" * 500)
    write_lines(tmp_path / "ok.jsonl", ["fine"])
    sources = [{"uri": str(tmp_path / name)} for name in ("ok.jsonl", "bad.txt")]
    with pytest.raises(InputError, match="bytes outside the encoding"):
        build(INGEST, {"sources": sources})
    (tmp_path / "mixed.jsonl").write_bytes(b'{"text": "also fine"}\n{"text": "b\xff\xfe\xffd"}\n')
    rejecting = build(INGEST, {"sources": [{"uri": str(tmp_path / "mixed.jsonl")}]}).manifest.statistics
    assert (rejecting["documents"], rejecting["rejected"], rejecting["undecodable_bytes"]) == (1, 1, 3)
    repaired = build(INGEST, {"sources": sources, "undecodable": "repair"})
    assert documents(repaired)[1]["text"].count("\ufffd") == 2
    assert repaired.manifest.statistics["undecodable_bytes"] == 2


def test_what_cannot_be_read_is_in_rejected_and_the_rest_is_kept(build: Build, tmp_path: Path) -> None:
    root = tmp_path / "texts"
    write_lines(root / "a.jsonl", ["fine"])
    (root / "b.txt").write_bytes(bytes(range(256)) * 10)
    (root / "c.docx").write_bytes(b"whatever")
    (root / "d.txt").write_bytes(b"")
    (root / "e.txt.gz").write_bytes(gzip.compress(b"broken" * 1000)[:30])
    (root / "f.parquet").write_bytes(b"PAR1 and no more")
    (root / "g.txt").symlink_to(write_lines(tmp_path / "secret.txt", ["secret"]))
    corpus = build(INGEST, {"sources": [{"uri": str(root)}]})
    assert [row["text"] for row in documents(corpus)] == ["fine"]
    reasons = {row["location"].split()[0]: row["reason"] for row in rejected(corpus)}
    assert set(reasons) == {"b.txt", "c.docx", "d.txt", "e.txt.gz", "f.parquet", "g.txt"}
    assert reasons["b.txt"] == "binary, not text" and reasons["g.txt"] == "a link that leaves the folder"


def test_rules_that_differ_in_a_sign_are_counted_apart(build: Build, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["one", "one two three four", "one two"])
    keep = ["n_words >= 2", "n_words <= 2"]
    statistics = build(INGEST, {"sources": [{"uri": str(path)}], "keep": keep}).manifest.statistics
    counts = {name: count for name, count in statistics.items() if name.startswith("rejected_")}
    assert counts == {"rejected_quality_n_words_at_least_2": 1, "rejected_quality_n_words_at_most_2": 1}


def test_a_missing_column_says_which_there_are(build: Build, store: Store, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["fine"], title="x")
    with pytest.raises(InputError, match="line 1: no column 'body'; there are text, title"):
        build(INGEST, {"sources": [{"uri": str(path), "text": "body"}]})
    with pytest.raises(InputError, match="no column 'page' to group by"):
        build(INGEST, {"sources": [{"uri": str(path), "group_by": ["page"]}]})
    assert not store.list()


def test_a_source_of_which_nothing_is_usable_says_why_and_not_what_was_wrong_with_another(
    build: Build, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["fine"])
    with path.open("a") as file:
        file.write("broken\n")
    (tmp_path / "b.docx").write_bytes(b"PK")
    other = write_lines(tmp_path / "c.jsonl", ["fine"])
    for source, problem in (
        ({"uri": str(tmp_path / "b.docx")}, r"b\.docx: no reader for \.docx"),
        ({"uri": str(other), "text": "body"}, r"c\.jsonl line 1: no column 'body'"),
    ):
        with pytest.raises(InputError, match=f"has no usable document; the first problem: {problem}"):
            build(INGEST, {"sources": [{"uri": str(path)}, source]})


def test_a_file_that_changes_while_it_is_read_stops_the_step(
    build: Build, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lines(tmp_path / "a.jsonl", several(3))
    real = read._take

    def take(*args: Any) -> Any:
        path.touch()
        return real(*args)

    monkeypatch.setattr(read, "_take", take)
    with pytest.raises(InputError, match="changed while it was read"):
        build(INGEST, {"sources": [{"uri": str(path)}]})
    assert not store.list()


def test_a_file_that_changes_before_it_is_read_is_not_taken_for_what_it_was(store: Store, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "texts/a.jsonl", ["before"])
    other = write_lines(tmp_path / "others/texts/a.jsonl", ["another of that name"])
    uris = [{"uri": str(each.parent)} for each in (path, other)]
    step = INGEST.using("test", IngestConfig.model_validate({"sources": uris}))
    write_lines(tmp_path / "texts/b.jsonl", ["a file that came later"])

    def run(out: Path, scratch: Path) -> dict[str, Any]:
        return INGEST.run({}, step.config, out, StepContext(scratch, sources=step.sources))

    write_lines(path, ["and after"])
    with pytest.raises(InputError, match=r"texts/a\.jsonl changed while it was read"):
        store.build(step, run)
    path.unlink()
    with pytest.raises(InputError, match=r"texts/a\.jsonl changed while it was read"):
        store.build(step, run)
    assert not store.list()
    write_lines(path, ["before"])
    assert [row["text"] for row in documents(store.build(step, run))] == ["before", "another of that name"]


def test_text_that_spells_the_end_of_text_stays_text(build: Build, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["one <|endoftext|> two"])
    assert documents(build(INGEST, {"sources": [{"uri": str(path)}]}))[0]["text"] == "one <|endoftext|> two"


def test_large_parts_are_written_in_small_row_groups(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.corpus.parquet.ROW_GROUP_BYTES", 2000)
    path = write_lines(tmp_path / "a.jsonl", several(100))
    (part,) = Corpus(build(INGEST, {"sources": [{"uri": str(path)}]})).parts
    assert pq.ParquetFile(part).num_row_groups >= 10


def test_a_table_is_the_same_by_rows_and_by_batches_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.corpus.parquet.ROW_GROUP_BYTES", 700)
    monkeypatch.setattr("pipelines.corpus.parquet.ROW_GROUP_ROWS", 9)
    rows = [{"doc_id": str(i), "text": "é" * (i * 37 % 400) or None} for i in range(100)]
    whole = pa.RecordBatch.from_pylist(rows, DOCUMENTS)
    for name, step in {"rows": 0, "one": 1, "some": 7, "all": 100}.items():
        with TableWriter(tmp_path / name, DOCUMENTS) as table:
            for start in range(0, 100, step or 100):
                if step:
                    table.write_batch(whole.slice(start, step))
                else:
                    for row in rows:
                        table.write(row)
        assert (table.rows, table.text_bytes) == (100, sum(len((row["text"] or "").encode()) for row in rows))
    assert len({(tmp_path / name).read_bytes() for name in ("rows", "one", "some", "all")}) == 1
    file = pq.ParquetFile(tmp_path / "all")
    assert file.read().to_batches()[0].schema == DOCUMENTS and file.read().to_pylist() == whole.to_pylist()
    assert file.num_row_groups > 20


def test_a_table_is_there_whole_or_not_at_all_and_two_that_write_it_do_not_meet(tmp_path: Path) -> None:
    path, schema = tmp_path / "table.parquet", pa.schema([("text", pa.string())])
    rows = [{"text": f"text {i}"} for i in range(2000)]
    with TableWriter(path, schema) as one, TableWriter(path, schema) as other:
        for row in rows:
            one.write(row)
            other.write(row)
        assert not path.exists()
    with pytest.raises(KeyError), TableWriter(tmp_path / "broken.parquet", schema) as broken:
        broken.write(rows[0])
        raise KeyError
    assert list(read_rows(path)) == rows
    assert list(tmp_path.iterdir()) == [path]


def test_partitions_of_which_the_end_was_not_on_the_disk_when_the_power_was_cut_are_done_again(
    build: Build, store: Store, tmp_path: Path
) -> None:
    def cut_power(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        for item in items:
            function(item)
            files = [path for path in item.folder.iterdir() if path.name != "done.json"]
            assert len(files) == 3
            os.truncate(min(files), min(files).stat().st_size // 2)
        raise ConnectionError

    source = {"uri": str(write_lines(tmp_path / "a.jsonl", several(50)))}
    ingest_config, tokenize_config = {"sources": [source], "near_duplicates": 0.8}, {"encoding": "characters"}
    corpus = build(INGEST, ingest_config)
    tokens = build(TOKENIZE, tokenize_config, corpus=corpus)
    store.remove(tokens)
    store.remove(corpus)
    for before, step, config, inputs in (
        (corpus, INGEST, ingest_config, {}),
        (tokens, TOKENIZE, tokenize_config, {"corpus": corpus}),
    ):
        with pytest.raises(ConnectionError):
            build(step, config, cut_power, **inputs)
        assert build(step, config, **inputs).manifest.files == before.manifest.files


def test_the_place_and_the_workers_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    steps = []
    for place in ("here", "there"):
        path = write_lines(tmp_path / place / "a.jsonl", ["same"])
        steps.append(INGEST.using("c", IngestConfig.model_validate({"sources": [{"uri": str(path)}]})))
    assert steps[0].fingerprint == steps[1].fingerprint
