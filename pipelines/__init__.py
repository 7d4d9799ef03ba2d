"""The steps, from source files to evaluations: plain functions over datasets in a step store. No Prefect, no MLflow."""
