"""The account that a process runs under, as ledgers and runs name who did something by hand."""

import os
from getpass import getuser


def account_name() -> str:
    """The name of the account, or "uid 1234" where it has none, as a container's or a service's may not."""
    try:
        return getuser()
    except (KeyError, OSError):
        # Python 3.13 raises OSError, earlier ones KeyError.
        return f"uid {os.getuid()}"
