"""One record at a time or a column at a time: bytes in a declared format become fields that are checked against a contract."""
