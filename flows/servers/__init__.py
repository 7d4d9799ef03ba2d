"""The local Prefect and MLflow servers and their processes."""
