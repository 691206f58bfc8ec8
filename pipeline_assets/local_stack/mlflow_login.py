"""Who asks MLflow: the platform with its own password, and people with a key of the web pages as theirs.

A key with the role viewer reads, one with the role operator or admin does all that the platform may, as before Dagster's pages. MLflow
calls `authenticate` for each request, of some several times.
"""

import logging
import re
from functools import lru_cache
from secrets import token_urlsafe
from typing import TYPE_CHECKING

from pipeline_assets.core.settings import AccessSettings, home_folder, read_part
from pipeline_assets.local_stack.mlflow import CALLER

if TYPE_CHECKING:
    from werkzeug.datastructures import Authorization
    from werkzeug.wrappers import Response

    from pipeline_assets.serving.realtime.access.callers import Caller
    from pipeline_assets.serving.realtime.access.keyring import Keyring

LOG = logging.getLogger(__name__)
# MLflow's user that reads; MLflow itself lets each of its users make experiments and models.
VIEWER, READ = "viewer", ("experiment", "registered_model")
# What its pages ask by POST, and changes nothing.
ASKED_BY_POST = re.compile(r".*/(search|search-[a-z]+|traces/metrics)|/graphql")
READING = frozenset({"GET", "HEAD", "OPTIONS"})


def authenticate() -> "Authorization | Response":
    """The user of MLflow that a request counts as, or the answer that refuses it."""
    from flask import request
    from mlflow.server import auth
    from werkzeug.datastructures import Authorization

    from pipeline_assets.serving.realtime.access.callers import Role

    given = request.authorization
    caller = None if given is None or given.password is None else caller_of(given.password)
    if caller is None:
        return auth.authenticate_request_basic_auth()
    if caller.roles & {Role.OPERATOR, Role.ADMIN}:
        return Authorization("basic", {"username": CALLER})
    if Role.VIEWER not in caller.roles:
        return auth.make_basic_auth_response()
    if request.method not in READING and not ASKED_BY_POST.fullmatch(request.path):
        return auth.make_forbidden_response()
    return Authorization("basic", {"username": _viewer()})


def caller_of(password: str) -> "Caller | None":
    """Whose key a password is; None where it is none, as that of the platform, or the file of keys cannot be used."""
    from pipeline_assets.serving.realtime.access.errors import KeyFileRefused
    from pipeline_assets.serving.realtime.access.keys import KEY_FORM

    if KEY_FORM.fullmatch(password) is None:
        return None
    try:
        return keys().caller(password)
    except (KeyFileRefused, OSError) as error:
        LOG.error("Nobody logs in with a key, as the file of keys cannot be used: %s", error)  # noqa: TRY400 - the sentence says it all
        return None


@lru_cache(maxsize=1)
def keys() -> "Keyring":
    """The keys of this process; raises KeyFileRefused where their file cannot be used."""
    from pipeline_assets.serving.realtime.access.keyring import Keyring

    return Keyring(read_part(AccessSettings, home_folder()).keys_file)


@lru_cache(maxsize=1)
def _viewer() -> str:
    """MLflow's user that reads, made at its first request; nobody knows its password."""
    from mlflow.server.auth import store

    if not store.has_user(VIEWER):
        store.create_user(VIEWER, token_urlsafe())
    for kind in READ:
        store.grant_user_permission(VIEWER, kind, "*", "READ")
    return VIEWER
