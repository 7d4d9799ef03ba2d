"""One run carried out by Prefect: the conductor, the promotion gate, progress, signals and endings."""
