"""The steps that make models, and what surrounds the training loop."""
