"""A data and ML platform as one Dagster project: sources to predictions, and back to training."""
