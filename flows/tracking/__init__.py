"""Experiment tracking: runs, curves, datasets and models in MLflow."""
