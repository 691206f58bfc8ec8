"""Landed bytes become typed rows, each exactly once; what breaks its contract goes to quarantine and can be replayed."""
