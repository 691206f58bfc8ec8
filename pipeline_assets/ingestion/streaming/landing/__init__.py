"""Landed records: the tables of bytes that connectors append to, the offsets in them, and records fetched again from Kafka."""
