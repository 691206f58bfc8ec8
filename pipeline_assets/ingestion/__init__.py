"""Layer 1, ingestion: sources → batch and streaming ingestion."""
