"""Text to token ids: tokenizers, shards, samples, tokenized examples and chat templates."""
