"""Who asks MLflow: the platform with its own password, and people with a key of the web pages as theirs.

A key with the role viewer reads, one with the role operator or admin does all that the platform may, as before Dagster's pages. What people
change, and what is refused to them, goes to the audit log of the web pages; what the platform does is in its runs. MLflow calls
`authenticate` for each request, of some several times.
"""

import logging
import re
from functools import lru_cache
from secrets import token_urlsafe
from typing import TYPE_CHECKING

from pipeline_assets.core.settings import AccessSettings, WebSettings, home_folder, read_part
from pipeline_assets.local_stack.mlflow import CALLER

if TYPE_CHECKING:
    from flask import Response
    from werkzeug.datastructures import Authorization

    from pipeline_assets.serving.realtime.access.callers import Caller
    from pipeline_assets.serving.realtime.access.keyring import Keyring

LOG = logging.getLogger(__name__)
# MLflow's user that reads; MLflow itself lets each of its users make experiments and models.
VIEWER, READ = "viewer", ("experiment", "registered_model")
# What its pages ask by POST, and changes nothing.
ASKED_BY_POST = re.compile(r".*/(search|search-[a-z]+|traces/metrics)|/graphql")
OF_MLFLOW = re.compile(r"/(ajax-)?api/\d+\.\d+/mlflow/")
READING = frozenset({"GET", "HEAD", "OPTIONS"})
# What a change is of, as the audit log has it of the members of its body: no password, no value.
NAMED = ("name", "version", "alias", "key", "experiment_id", "run_id", "username")
MOST_OF_A_NAME = 100


def authenticate() -> "Authorization | Response":
    """The user of MLflow that a request counts as, or the answer that refuses it."""
    from flask import request
    from mlflow.server import auth

    given = request.authorization
    caller = None if given is None or given.password is None else caller_of(given.password)
    if caller is None:
        return auth.authenticate_request_basic_auth()
    changes = request.method not in READING and not ASKED_BY_POST.fullmatch(request.path)
    answer = _answer(caller, changes=changes)
    if changes:
        _audit(caller, answer)
    return answer


def _answer(caller: "Caller", *, changes: bool) -> "Authorization | Response":
    from mlflow.server import auth
    from werkzeug.datastructures import Authorization

    from pipeline_assets.serving.realtime.access.callers import Role

    if caller.roles & {Role.OPERATOR, Role.ADMIN}:
        return Authorization("basic", {"username": CALLER})
    if Role.VIEWER not in caller.roles:
        return auth.make_basic_auth_response()
    return auth.make_forbidden_response() if changes else Authorization("basic", {"username": _viewer()})


def _audit(caller: "Caller", answer: "Authorization | Response") -> None:
    """Writes what somebody wants to change to the audit log once it is answered.

    Of requests that MLflow answers without Flask, as those with files, it is written before, without a status unless it is refused here.
    """
    from flask import after_this_request, g, request

    from pipeline_assets.serving.realtime.access.audit import Asked, now, write_audit
    from pipeline_assets.serving.realtime.access.traces import trace_of

    if "audited" in g:
        return
    g.audited = True
    # Of others the body is a file, which can be read once: by who stores it.
    body = request.get_json(silent=True) if OF_MLFLOW.match(request.path) else None
    named = {name: str(body[name])[:MOST_OF_A_NAME] for name in NAMED if name in body} if isinstance(body, dict) else {}
    asked = Asked(
        method=request.method,
        route=None if request.url_rule is None else request.url_rule.rule,
        params={},
        address=request.remote_addr or "unknown",
        trace=trace_of({b"traceparent": request.headers.get("traceparent", "").encode()}),
        began_at=now(),
        changes=tuple(f"{name} {value}" for name, value in named.items()),
    )

    def write(answered: "Authorization | Response") -> "Authorization | Response":
        _open_log()
        write_audit(asked, caller, getattr(answered, "status_code", None))
        return answered

    if request.remote_addr is None:
        write(answer)
    else:
        after_this_request(write)


@lru_cache(maxsize=1)
def _open_log() -> None:
    """Opens the audit log of this process, in which a thread writes it: MLflow forks its workers before their first request."""
    from pipeline_assets.serving.realtime.access.audit import log_audit

    log_audit(read_part(WebSettings, home_folder()).web_audit_file)


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
