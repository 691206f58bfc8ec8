"""Room 8, training: a model learned from decisions whose outcome was known when training was asked.

Responsibility: join the feature vectors of decisions to the labels that had matured at `as_of`, in time blocks; learn, judge and document a
candidate, by the kind of its task (yes or no, one of several classes, a number).
Input: the lake table `feature_store.<model>` and the cleaned table of labels. Output: training sets on the object store, addressed by
their content, and one finished MLflow run per candidate with its model, its contract, its metrics and its plots.
"""
