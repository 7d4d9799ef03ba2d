"""Data by name: relations, SQL with the gates of the command, manifests."""

import pyarrow as pa
import pytest

import tokenmill

pytestmark = pytest.mark.integration


def test_relation_is_arrow_pandas_and_rows(home):
    documents, ids = tokenmill.corpus("walks", home=home), tokenmill.tokens("walks", home=home)
    n = tokenmill.manifest("corpus/walks", home=home).statistics["documents"]
    assert len(documents.df()) == documents.to_arrow_table().num_rows == len(documents.fetchall()) == n
    assert ids.to_arrow_table().schema.field("tokens").type.value_type == pa.uint16()
    decode = tokenmill.tokenizer("tokens/walks", home=home).decode
    texts = dict(documents.select("doc_id, text").fetchall())
    assert {doc_id: decode(row[:-1]) for doc_id, row in ids.select("doc_id, tokens").fetchall()} == texts


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("create table x as select 1", "one statement that reads"),
        ("select 1; select 2", "one statement that reads"),
        ("selec 1", "syntax error"),
        ("select foo from documents", 'no column "foo" here'),
        ("from read_csv('/etc/passwd')", "out of reach"),
    ],
)
def test_sql_has_the_gates_of_the_command(home, query, sentence):
    with pytest.raises(tokenmill.InputError, match=sentence):
        tokenmill.sql(query, home=home)


def test_home_is_named_or_the_current_folder(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    query = "select count(*) from datasets"
    assert tokenmill.sql(query).fetchall() == [(0,)]
    monkeypatch.setenv("TOKENMILL_HOME", str(home))
    assert tokenmill.sql(query).fetchall() == tokenmill.sql(query, home=str(home)).fetchall() != [(0,)]
    assert tokenmill.sql(query, home=tmp_path).fetchall() == [(0,)]
