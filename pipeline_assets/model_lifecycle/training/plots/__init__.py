"""What a person looks at before trusting a model, as small PNG images."""
