"""Proposals of declarations: what a sample of a source shows of its contract, written as Python code that a person edits.

What the source itself promises (a catalog, a schema) is taken as it is. What only a sample shows is a comment, or marked as a guess.
"""
