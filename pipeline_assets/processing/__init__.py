"""Layer 2, processing: the lake keeps what was ingested, cleaning puts it in order, features describe it."""
