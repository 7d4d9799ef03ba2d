"""The conductor: Prefect flows and tasks over the steps, MLflow tracking, the local stack, the command line."""
