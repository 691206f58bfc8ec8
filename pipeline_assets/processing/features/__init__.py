"""The features: what a model may know of an entity at the moment of a decision, and not a bit more.

Responsibility: windows over events, newest values and facts of the request, computed for the keys and times of the model's decisions from
what was known by then; the declaration of a feature read as columns, types, lineage and hash.
Input: cleaned tables of the warehouse, and the use case's declarations of views and request features.
Output: tables `features.<view>` in the lake, one row per distinct entity key and decision time of a day.
"""
