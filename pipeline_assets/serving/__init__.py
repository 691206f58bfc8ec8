"""Layer 4, serving: predictions by day, the package of the prediction service, and what is watched once a model is live."""
