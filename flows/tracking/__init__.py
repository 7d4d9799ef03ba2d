"""What MLflow receives: runs, datasets, models, notes."""
