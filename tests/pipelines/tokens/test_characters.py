from __future__ import annotations

from pipelines.tokens.characters import count_characters, count_words


def test_unseen_characters_and_words_share_one_token() -> None:
    texts = ["The mill grinds slowly, but it grinds well.", "Die Mühle mahlt langsam."]
    characters, words = count_characters(texts), count_words(texts, 10)
    for tokenizer in (characters, words):
        assert tokenizer.special["<|unk|>"] in tokenizer.encode("ξenon").tolist()
    assert characters.encode("ξ").tolist() == [characters.special["<|unk|>"]]
