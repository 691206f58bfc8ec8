"""The vocabulary of declarations: frozen dataclasses on the standard library, with no behaviour of their own.

A use case is written in these words and in nothing else. What a declaration means is the business of the rooms; whether it is well
formed is checked once, at load, by `pipeline_assets.core.declarations`.
"""
