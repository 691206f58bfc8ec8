"""Room 7, feature store: one row of features for every decision, as they stood when it was asked for.

Responsibility: join the feature tables of all views to the observations of a model, never gaining or losing a row; compute the same
features for any table of entity keys and times that a person brings; say which features there are.
Input: the feature tables of the lake, the cleaned observations and events, or a spine. Output: the lake table `feature_store.<model>`,
and the spine with its features.
"""
