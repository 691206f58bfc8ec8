"""Outside worlds, one folder each: what the sources of a use case are on a machine that has no real ones.

A folder is found by its `world.toml`, which describes the databases, services and events that the local stack has for it. A user with real
sources deletes the folder. The product never imports a simulator, and no simulator imports the product.
"""
