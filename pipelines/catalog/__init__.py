"""SQL over everything that is published, and MLflow's runs and registry."""
