"""The audit: each record and each followed row is compared between its source and the lake."""
