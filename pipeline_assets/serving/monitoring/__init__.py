"""Monitoring: is the world still the one the model was trained for, and is the model still good?

Input: the vectors and scores of each day, the labels once they have matured, and the training set of the live model as reference.
Output: drift and performance per day as tables, checks and a report, and the request for a retraining when a check fails.
"""
