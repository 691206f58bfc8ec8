"""Forgetting: an entity is removed from everything that the platform keeps, and not taken in again.

Not a room: it goes through what all rooms keep, as plain functions, without Dagster.
"""
