"""Results of steps as a person reads them."""

from unittest.mock import MagicMock

from flows.outcome import details, headline


def dataset(step, **statistics):
    return MagicMock(manifest=MagicMock(step=step, statistics=statistics))


def test_headline_is_the_steps_own_or_counts():
    tokens = dataset("tokenize", tokens=12_345, bytes_per_token=4.5, vocabulary=300)
    assert headline(tokens) == details(tokens) == "12.3k tokens of 4.50 bytes, vocabulary 300"
    assert headline(dataset("of a plugin", n_words=3, words="three")) == "3 n words"


def test_details_of_an_evaluation_show_its_baselines():
    keys = {"test/bits_per_byte": 2.0, "test/perplexity": 9.0, "test-baseline/unigram/bits_per_byte": 3.0}
    evaluation = dataset("evaluate-language", scored_tokens=1000, **keys)
    assert headline(evaluation) == "2.000 bits per byte, perplexity 9.0"
    assert details(evaluation).splitlines() == [
        "1,000 held-out tokens  bits/byte  perplexity",
        "this model                 2.000         9.0",
        "unigram                    3.000           -",
    ]
