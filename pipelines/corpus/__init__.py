"""Source files to clean text: corpora, and examples to fine-tune on."""
