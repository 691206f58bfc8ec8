"""The rules that declarations keep: each yields a problem for every declaration that breaks it, and none is hidden behind another."""
