"""Evaluations of models: metrics, baselines, intervals, comparisons and the promotion decision."""
