"""Machinery that belongs to no room: settings, names, errors, the check of declarations, and the resources of Dagster."""
