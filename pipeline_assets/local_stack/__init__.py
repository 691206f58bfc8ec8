"""The real services on one machine: started, waited for and stopped, from packages alone and on loopback only.

A service that the environment already points to (a DSN, an endpoint, a URL) is not started. All state lies in one folder (`PIPELINE_HOME`,
else `.pipeline`).
"""
