"""Pages for people behind a guard: Dagster's web server, which itself asks nobody who they are and takes orders from any web page.

`origins` says for whom and from where a request may be, `operations` what it would change, `guard` refuses, `webserver` is the program.
"""
