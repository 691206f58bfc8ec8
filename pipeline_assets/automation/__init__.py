"""What runs by itself across all rooms: runs that failed are asked for again.

It is no room: what a room asks for by itself is in its own `sensors.py`, and what those share in `core/due.py` and `core/retries.py`.
"""
