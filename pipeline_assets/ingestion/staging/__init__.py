"""Staged partitions, shared by batch and streaming ingestion and read by the lake: drafted, audited, published by a manifest.

Not a room: the rooms of ingestion write staged partitions through it, each in its own way.
"""
