"""Duplicates: documents of equal or nearly equal text, found without holding them in memory. The first one is kept.

Equal texts have equal ids. The first 64 bits of all ids are sorted, part by part and then one range at a time. An id
prefix that occurs twice is almost always a duplicate. DuckDB finds the rows that have one.

Near duplicates are found by MinHash (Broder 1997): the share of word sequences that two documents have in common is
about the share of equal numbers in their signatures. Signatures are divided into bands, and only documents with an
equal band are compared. So the work grows with the number of documents and not of pairs. In scripts that put no space
between words, each letter counts as a word.
"""

import re
from binascii import unhexlify
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rensa
from numpy.typing import NDArray

from pipelines.corpus.parquet import read_batches
from pipelines.store.files import whole_file
from pipelines.store.step import Listener

PREFIXES_PER_RANGE = 1 << 20  # id prefixes that are compared at once, on average
MAX_RANGES = 256
MEMORY = (16, 64, 256, 2048)  # megabytes that DuckDB may use: the first that is enough
BYTES_PER_ROW = 25  # of that memory, at least
HASHES, BANDS, WORDS = 128, 16, 5  # numbers in a signature, bands in a signature, words in a sequence

UNSPACED = "".join(
    [
        "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff",  # Thai, Lao, Tibetan, Burmese, Khmer
        "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f",  # Japanese
        "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",  # Chinese
    ]
)
"""Letters of scripts without spaces between words."""

HAS_UNSPACED = re.compile(f"[{UNSPACED}]")
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")

Numbers = NDArray[np.uint64]

SIGNATURES = pa.schema([("signature", pa.list_(pa.uint32())), ("bands", pa.list_(pa.uint64()))])

# The first document of each text is kept. A place is a part's number in the high bits, and a row.
EXACT = """
    INSERT INTO exact
    WITH placed AS (
        SELECT doc_id, (part::BIGINT << 40) + file_row_number AS place FROM ids JOIN parts USING (filename)
        WHERE ('0x' || doc_id[:16])::UBIGINT IN (SELECT number FROM repeated)
    ),
    firsts AS (SELECT doc_id, min(place) AS first FROM placed GROUP BY doc_id HAVING count(*) > 1)
    SELECT place, first FROM placed JOIN firsts USING (doc_id) WHERE place > first
"""

SIMILARITY = "len(list_filter(list_zip(a.signature, b.signature), lambda z: z[1] = z[2])) / len(a.signature)"

# Link each document to the first one with an equal band, if the two are similar enough.
NEAR = f"""
    CREATE TEMP TABLE signed AS
    SELECT (part::BIGINT << 40) + file_row_number AS place, signature, bands
    FROM signatures JOIN parts ON signatures.filename = signature_file
    WHERE place NOT IN (SELECT place FROM exact);

    CREATE OR REPLACE TEMP TABLE links AS
    WITH banded AS (SELECT place, unnest(bands) AS band, generate_subscripts(bands, 1) AS number FROM signed),
    buckets AS (SELECT band, number, min(place) AS first FROM banded GROUP BY ALL HAVING count(*) > 1),
    pairs AS (SELECT DISTINCT place, first FROM banded JOIN buckets USING (band, number) WHERE place > first),
    compared AS (
        SELECT pairs.place, pairs.first, {SIMILARITY} AS similarity
        FROM pairs JOIN signed a ON a.place = pairs.place JOIN signed b ON b.place = pairs.first
    )
    SELECT place, arg_min(first, first) AS first, arg_min(similarity, first) AS similarity
    FROM compared WHERE similarity >= $threshold GROUP BY place
"""  # noqa: S608 - a constant

# A link may lead to a document that is dropped itself: follow the links to the one that is kept.
UNSETTLED = "SELECT 1 FROM links l JOIN links n ON l.first = n.place LIMIT 1"

FOLLOW = """
    CREATE OR REPLACE TEMP TABLE links AS
    SELECT l.place, coalesce(n.first, l.first) AS first, l.similarity
    FROM links l LEFT JOIN links n ON l.first = n.place
"""

# The similarity to the document that is kept.
COMPARE = f"""
    CREATE OR REPLACE TEMP TABLE links AS
    SELECT l.place, l.first, {SIMILARITY} AS similarity
    FROM links l JOIN signed a ON a.place = l.place JOIN signed b ON b.place = l.first
"""  # noqa: S608 - a constant

# A document that equals a near duplicate is a near duplicate too.
RESULT = """
    WITH dropped AS (
        SELECT e.place, coalesce(l.first, e.first) AS first, coalesce(l.similarity, 1.0) AS similarity,
            if(l.first IS NULL, 'exact duplicate', 'near duplicate') AS reason
        FROM exact e LEFT JOIN links l ON l.place = e.first
        UNION ALL
        SELECT place, first, similarity, 'near duplicate' AS reason FROM links
    ),
    names AS (SELECT doc_id, (part::BIGINT << 40) + file_row_number AS first FROM ids JOIN parts USING (filename))
    SELECT (place >> 40)::INTEGER AS part, place & ((1::BIGINT << 40) - 1) AS row, reason, doc_id AS kept, similarity
    FROM dropped JOIN names USING (first) ORDER BY place
"""


def find_duplicates(
    files: Sequence[Path], scratch: Path, near: float | None = None, listener: Listener | None = None
) -> Path:
    """Find the documents to drop, and write a table of them: part, row, reason, kept, similarity.

    Args:
        files: Parquet files with a column `doc_id`, in order. The first of equal documents is kept. For near
            duplicates, each file has its signatures beside it.
        scratch: the folder for the table and for all that does not fit into memory.
        near: the share of a signature from which two documents are near duplicates. None finds equal ones only.
        listener: receives the progress. Its bar stays full.
    """
    rows, n = sum(pq.read_metadata(file).num_rows for file in files), len(files)
    show = partial((listener or Listener()).progress, n, n, "parts")
    repeated = _repeated(files, rows, scratch / "numbers", show)
    show("comparing documents")
    *little, most = MEMORY
    least = BYTES_PER_ROW * (len(repeated) if near is None else rows) / 1e6
    for memory in (each for each in little if each > least):
        with suppress(duckdb.OutOfMemoryException):
            return _find_duplicates(files, scratch, near, repeated, memory)
    return _find_duplicates(files, scratch, near, repeated, most)


def _repeated(files: Sequence[Path], rows: int, scratch: Path, show: Callable[[str], None]) -> Numbers:
    """Return the first 64 bits of ids that occur more than once."""
    scratch.mkdir(exist_ok=True)
    ranges = min(rows // PREFIXES_PER_RANGE, MAX_RANGES) + 1
    edges = np.array([number * 2**64 // ranges for number in range(1, ranges)], np.uint64)

    def sort(part: int) -> tuple[Numbers, NDArray[np.int64]]:
        """Return the repeated prefixes of a file, and the bounds of the ranges in its sorted prefixes."""
        ids = (batch["doc_id"].cast(pa.binary(32)).buffers()[1] for batch in read_batches(files[part], ["doc_id"]))
        halves = np.frombuffer(unhexlify(b"".join(ids)), ">u8").astype(np.uint64)
        numbers, counts = np.unique(halves[::2], return_counts=True)
        numbers.tofile(scratch / str(part))
        show(f"looking for duplicates, {part + 1:,} of {len(files):,}")
        return numbers[counts > 1], np.array([0, *np.searchsorted(numbers, edges), len(numbers)])

    with ThreadPoolExecutor(2) as pool:
        repeated, cuts = map(list, zip(*pool.map(sort, range(len(files))), strict=True))
    for number in range(ranges):
        of_range = [
            np.fromfile(scratch / str(part), np.uint64, at[number + 1] - at[number], offset=8 * at[number])
            for part, at in enumerate(cuts)
        ]
        numbers = np.sort(np.concatenate(of_range))
        repeated.append(numbers[1:][numbers[1:] == numbers[:-1]])
    return np.unique(np.concatenate(repeated))


def _find_duplicates(files: Sequence[Path], scratch: Path, near: float | None, repeated: Numbers, memory: int) -> Path:
    target = scratch / "duplicates.parquet"
    database = duckdb.connect(config={"memory_limit": f"{memory}MB", "preserve_insertion_order": False, "threads": 2})
    database.execute("SET temp_directory = $folder", {"folder": str(scratch / "spill")})
    names, signed = [str(path) for path in files], [str(signatures_of(path)) for path in files]
    parts = {"part": range(len(files)), "filename": names, "signature_file": signed}
    database.register("parts", pa.table(parts))
    database.read_parquet(names, filename=True, file_row_number=True).create_view("ids")
    database.execute("CREATE TEMP TABLE exact (place BIGINT, first BIGINT)")
    if len(repeated):
        database.register("repeated", pa.table({"number": repeated}))
        database.execute(EXACT)
    database.execute("CREATE TEMP TABLE links (place BIGINT, first BIGINT, similarity DOUBLE)")
    if near is not None:
        database.read_parquet(signed, filename=True, file_row_number=True).create_view("signatures")
        database.execute(NEAR, {"threshold": near})
        has_chains = False
        while database.execute(UNSETTLED).fetchone():
            has_chains = True
            database.execute(FOLLOW)
        if has_chains:
            database.execute(COMPARE)
    database.sql(RESULT).write_parquet(str(target), row_group_size=20_000)
    return target


def parts_with_duplicates(duplicates: Path) -> set[int]:
    """Return the numbers of the parts that have duplicates."""
    return set().union(*(batch["part"].unique().to_pylist() for batch in read_batches(duplicates, ["part"])))


def rows_to_drop(duplicates: Path, part: int) -> dict[int, dict[str, Any]]:
    """Return the rows of one part that are dropped, with their reason, kept document and similarity."""
    table = pq.read_table(duplicates, filters=[("part", "==", part)])
    return {row.pop("row"): row for row in table.drop_columns(["part"]).to_pylist()}


def signatures_of(documents: Path) -> Path:
    """Return the file of the signatures of a file of documents."""
    return documents.with_suffix(".signatures.parquet")


def write_signatures(documents: Path) -> None:
    """Compute the MinHash signatures of a file of documents, one in each row."""
    with (
        whole_file(signatures_of(documents)) as temporary,
        pq.ParquetWriter(temporary, SIGNATURES, compression="zstd") as writer,
    ):
        for batch in read_batches(documents, ["text"]):
            signatures = list(map(signature_of, batch["text"].to_pylist()))
            bands = list(band_hashes(np.array(signatures, np.uint32)))
            writer.write_batch(pa.record_batch([signatures, bands], schema=SIGNATURES))


def signature_of(text: str) -> list[int]:
    """Return the MinHash signature of a text."""
    words = words_of(text)
    minhash = rensa.RMinHash(num_perm=HASHES, seed=42)
    minhash.update([" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))])
    return minhash.digest()


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters, where each letter of a script without spaces is a word."""
    text = text.lower()
    return WORD.findall(text) if HAS_UNSPACED.search(text) else text.split()


def band_hashes(signatures: np.ndarray) -> np.ndarray:
    """Return (N, BANDS) hashes of the bands of (N, HASHES) signatures."""
    bands = signatures.reshape(len(signatures), BANDS, -1).astype(np.uint64)
    total = np.zeros(bands.shape[:2], np.uint64)
    for i in range(bands.shape[2]):
        total = (total ^ bands[:, :, i]) * np.uint64(0x9E3779B97F4A7C15)
        total ^= total >> np.uint64(29)
    return total
