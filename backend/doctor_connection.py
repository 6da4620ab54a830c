"""The doctor's checks of the way from Label Studio to the ML backend: the row in *Settings > Model* and behind it."""

from __future__ import annotations

from typing import Any

from backend.auth import SECRET_HEADER
from backend.clients import NoAnswer, shown
from backend.doctor import Finding, Mark, NotNow, Problem, Visit

_ROW_SECONDS = 120.0  # Label Studio asks every attached backend, each up to some seconds, before it answers
_NOT_A_NUMBER = "doctor"


def rows_of(visit: Visit) -> list[dict[str, Any]]:
    """The backends of the project, in the order in which Label Studio takes them; ours is remembered.

    Ours is the one with the given address, else the first interactive one, else the first.
    """
    if visit.rows is None:
        reply = visit.call(f"/api/ml?project={visit.project_id}", seconds=_ROW_SECONDS)
        found = reply.json()
        if reply.status != 200 or not isinstance(found, list):
            raise Problem(
                f"Label Studio does not list the project's ML backends (status {reply.status})",
                "Use a token of somebody who may change the project's settings.",
            )
        visit.rows = [row for row in found if isinstance(row, dict)]
        ours = [row for row in visit.rows if visit.backend_url in (None, _address(row))]
        interactive = [row for row in ours if row.get("is_interactive")]
        visit.row = next(iter([*interactive, *ours]), None)
    return visit.rows


def check_address(visit: Visit) -> str:
    """Label Studio lets a backend at this address be attached: by default it refuses private ones.

    It is asked to attach one with a timeout that is no number: that it notices after the address, and attaches nothing.
    """
    rows_of(visit)
    url = _address(visit.row) if visit.row else visit.backend_url or visit.settings.public_url
    body = {"project": visit.project_id, "url": url, "timeout": _NOT_A_NUMBER}
    reply = visit.call("/api/ml", "POST", body)
    detail = str(reply.entry("detail"))
    if reply.status == 400 and "timeout" in (reply.entry("validation_errors") or {}):
        return f"Label Studio may call {shown(url)}"
    if "reserved network address" in detail:
        raise Problem(
            f"Label Studio refuses {shown(url)}: it leads to a private address",
            "Start Label Studio (not the ML backend) with LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false, then attach "
            "the backend again; ban what must stay banned with LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS.",
        )
    if "resolve hostname" in detail:
        raise Problem(
            f"Label Studio can't find the host of {shown(url)}",
            "Attach the backend under a name or number that is known where Label Studio runs (in Docker the name of "
            "the service).",
        )
    raise NotNow(f"Label Studio answered {reply.status} to the question; the token's user may not change the project")


def check_attached(visit: Visit) -> str:
    """The backend has one row in the project's settings."""
    rows = rows_of(visit)
    if visit.row is None:
        there = ", ".join(shown(_address(row)) for row in rows)
        wanted = visit.backend_url or "the URL of 'python -m backend serve' as seen from Label Studio"
        login = " and Basic authentication" if visit.settings.basic_auth_user else ""
        raise Problem(
            f"{shown(visit.backend_url)} is not attached; there is {there}" if rows else "no ML backend is attached",
            f"Settings > Model > Connect Model: {wanted}, with Interactive preannotations on{login}.",
        )
    same = [row for row in rows if _address(row) == _address(visit.row)]
    if len(same) > 1:
        numbers = ", ".join(str(row.get("id")) for row in same[1:])
        raise Problem(
            f"{shown(_address(visit.row))} is attached {len(same)} times",
            f"Remove all but the first in Settings > Model (DELETE /api/ml/<id> for {numbers}); each failed attempt "
            "can leave a row behind.",
        )
    return f"'{visit.row.get('title')}' at {shown(_address(visit.row))}"


def check_first(visit: Visit) -> Finding | str:
    """The editor asks our row: it asks the first interactive one of a project, and no other."""
    interactive = [row for row in rows_of(visit) if row.get("is_interactive")]
    if not visit.row.get("is_interactive"):
        raise Problem(
            f"'{visit.row.get('title')}' is not interactive, so clicks are not sent to it",
            "Settings > Model > Edit: switch Interactive preannotations on.",
        )
    first = interactive[0]
    others = [row for row in interactive if row is not first]
    if not others:
        return "clicks are sent to it"
    silent = ", ".join(f"'{row.get('title')}' at {shown(_address(row))}" for row in others)
    text = f"only '{first.get('title')}' at {shown(_address(first))} is asked, never {silent}"
    if visit.backend_url is not None and first is visit.row:
        return Finding(Mark.NOTE, text, "Switch Interactive preannotations of the others off.")
    raise Problem(text, "Leave Interactive preannotations on for one of them only, or remove the others.")


def check_connected(visit: Visit) -> str:
    """Label Studio reaches the backend and is answered."""
    state = str(visit.row.get("state"))
    if state in ("CO", "PR", "TR"):
        visit.connected = True
        return "Label Studio calls it 'Connected'"
    name = visit.row.get("readable_state") or state
    text, mend = _why_not(visit)
    raise Problem(f"Label Studio calls it '{name}': {text}", mend)


def _why_not(visit: Visit) -> tuple[str, str]:
    """What is wrong with a backend that Label Studio does not reach, found out by asking it from here."""
    url = _address(visit.row)
    backend = visit.backend(url)
    try:
        health = backend.ask("GET", "/health")
    except NoAnswer as error:
        return f"nothing answers at {shown(url)} ({error})", (
            "Start 'python -m backend serve' there, or correct host and port in Settings > Model > Edit."
        )
    if health.status != 200 or not health.entry("model_class"):
        return f"what answers at {shown(url)} is no ML backend (status {health.status})", (
            "Correct host and port in Settings > Model > Edit."
        )
    body = {"project": str(visit.project_id), "schema": str(visit.project.get("label_config") or "")}
    try:
        setup = backend.ask("POST", "/setup", body)
    except NoAnswer as error:
        return f"it does not answer /setup ({error})", "Look into the log of the ML backend."
    if setup.status == 401:
        return "it wants other credentials than BASIC_AUTH_USER and BASIC_AUTH_PASS here", (
            "Run the doctor with the environment of the ML backend."
        )
    if setup.status != 200:
        told = str(setup.entry("error") or f"status {setup.status}")
        return f"it answers /setup with '{told}'", "Look into the log of the ML backend."
    return _credentials(visit) or (
        f"this machine reaches {shown(url)}, Label Studio does not",
        "Use an address that is right where Label Studio runs; in containers that is not 'localhost'.",
    )


def _credentials(visit: Visit) -> tuple[str, str] | None:
    """The difference between the row's credentials and ours; the row does not tell its password."""
    user = visit.settings.basic_auth_user
    if not user:
        return None
    if visit.row.get("auth_method") != "BASIC_AUTH":
        said = "Label Studio sends it no credentials, it wants basic authentication"
    elif visit.row.get("basic_auth_user") != user:
        said = "Label Studio sends another user name than BASIC_AUTH_USER"
    elif "401" in str(visit.row.get("error_message")):
        said = "Label Studio sends another password than BASIC_AUTH_PASS"
    else:
        return None
    return said, (
        "Settings > Model > Edit: Basic authentication with the values of BASIC_AUTH_USER and BASIC_AUTH_PASS."
    )


def check_version(visit: Visit) -> str:
    """The version that Label Studio stores with predictions is the one of the loaded model."""
    stored = str(visit.row.get("model_version") or "")
    try:
        loaded = visit.backend(_address(visit.row)).ask("GET", "/health").entry("version")
    except NoAnswer as error:
        raise NotNow(f"{shown(_address(visit.row))} is not reached from this machine ({error})") from error
    if loaded is None:
        raise Problem("what answers there is not this ML backend", "Correct the URL in Settings > Model > Edit.")
    if stored != loaded:
        raise Problem(
            f"Label Studio keeps the version '{stored}', the model is '{loaded}'",
            f"PATCH /api/ml/{visit.row.get('id')} with auto_update true (and project, url, credentials), or attach the "
            "backend again.",
        )
    return stored


def check_webhook(visit: Visit) -> Finding | str:
    """Label Studio tells the backend what happens to annotations; the hook is made when a backend is attached."""
    wanted = _address(visit.row) + "/webhook"
    found = visit.call(f"/api/webhooks/?project={visit.project_id}").json()
    hooks = [h for h in found or () if isinstance(h, dict) and str(h.get("url")).rstrip("/") == wanted]
    if not hooks:
        raise Problem(
            "the project has no webhook for it, so it never hears of annotations",
            "Label Studio makes it when a backend is attached, unless it refuses private addresses there too "
            "(LABEL_STUDIO_SSRF_PROTECTION_ENABLED); attach the backend again.",
        )
    if not any(hook.get("is_active") for hook in hooks):
        raise Problem("its webhook is switched off", "Switch it on in Settings > Webhooks.")
    if visit.settings.basic_auth_user and not any(SECRET_HEADER in (hook.get("headers") or {}) for hook in hooks):
        return Finding(
            Mark.NOTE,
            f"events come without the header {SECRET_HEADER}, so the backend refuses them",
            "The backend writes it into the webhook itself, seconds after it was attached, where its "
            "LABEL_STUDIO_API_KEY is of somebody who may change the project; else its log says why not.",
        )
    return "events are sent"


def _address(row: dict[str, Any]) -> str:
    return str(row.get("url") or "").rstrip("/")

