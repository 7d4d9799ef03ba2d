-- MLflow's database, beside Prefect's. PostgreSQL's image runs this once, on an empty volume.
CREATE DATABASE mlflow;
