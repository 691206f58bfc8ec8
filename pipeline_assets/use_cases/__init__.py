"""Declarations only: what the sources are, what the features mean, what the model predicts, what is watched."""
