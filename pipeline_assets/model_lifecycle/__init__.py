"""Layer 3, model lifecycle: what a decision knew, what was learned from it, and which of the learned versions is live."""
