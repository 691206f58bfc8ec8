"""The online feature store: the values of features now, kept as events come, equal to the offline ones bit for bit.

Responsibility: for each view and entity key a packed state, from which the features at a moment are read; kept by topics or by the lake's
commits, built from the lake, and held against it.
Input: events of topics, cleaned tables of the lake.
Output: features of a model for entity keys, with the offsets that were seen.
"""
