"""Proposals of what is read in batches: a sample of a table, of files or of an endpoint, and the declaration that it shows."""
