"""The doctor on the way between Label Studio and the ML backend: addresses, rows, credentials, events, versions."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from label_studio_server import LabelStudioServer
from ward import CLICKS, LOGIN, QUIET, plain_server

from x2sam.errors import PromptError


def test_a_backend_that_is_not_attached(ward, backend):
    report = ward.examine("--project", ward.project())
    report.failed("attached", "no ML backend is attached", "Interactive preannotations")
    assert report.mark("address") == "ok" and report.mark("decode") == "ok" and report.mark("predict") == "skipped"
    number = ward.project()
    ward.attach(number, backend)
    report = ward.examine("--project", number, "--backend", "http://127.0.0.1:1")
    report.failed("attached", "http://127.0.0.1:1 is not attached", backend)


def test_a_backend_under_a_port_where_it_does_not_listen(ward):
    number = ward.project()
    with ward.backend() as url:
        ward.attach(number, url)
    report = ward.examine("--project", number)
    report.failed("connected", "'Disconnected'", f"nothing answers at {url} (the connection is refused)", "port")
    assert report.mark("attached") == "ok" and report.mark("predict") == "skipped"
    with plain_server(200, port=int(url.rpartition(":")[2])):
        ward.examine("--project", number).failed("connected", f"what answers at {url} is no ML backend")


def test_a_host_that_label_studio_does_not_know(ward):
    report = ward.examine("--project", ward.project(), "--backend", "http://nobody.invalid:9090")
    report.failed("address", "Label Studio can't find the host of http://nobody.invalid:9090", "Docker")


def test_two_interactive_backends(ward, backend):
    number = ward.project()
    with ward.backend() as other:
        ward.attach(number, backend, title="first one")
        ward.attach(number, other, title="second one")
        report = ward.examine("--project", number)
        report.failed("first", f"only 'first one' at {backend} is asked, never 'second one' at {other}")
        ward.examine("--project", number, "--backend", other).failed("first", "only 'first one'")
        assert ward.examine("--project", number, "--backend", backend + "/").mark("first") == "note"


def test_a_backend_that_is_not_interactive(ward, backend):
    number = ward.project()
    ward.attach(number, backend, is_interactive=False)
    report = ward.examine("--project", number)
    report.failed("first", "not interactive", "switch Interactive preannotations on")
    assert report.mark("predict") == "skipped"


def test_a_backend_that_is_attached_twice(ward, backend):
    number = ward.project()
    ward.attach(number, backend)
    again = ward.attach(number, backend)
    ward.examine("--project", number).failed("attached", "attached 2 times", f"/api/ml/<id> for {again}")


@pytest.fixture(scope="module")
def guarded(ward, whole, tmp_path_factory) -> Iterator[LabelStudioServer]:
    """A second Label Studio with the same content, which refuses private addresses, as it does by default."""
    first, folder = ward.label_studio, tmp_path_factory.mktemp("guarded")
    with (
        closing(sqlite3.connect(first.folder / "label_studio.sqlite3")) as source,
        closing(sqlite3.connect(folder / "label_studio.sqlite3")) as copy,
    ):
        source.backup(copy)
    shutil.copy(first.folder / ".env", folder / ".env")
    server = LabelStudioServer(
        first.python, folder, first.files_root, token=first.token, username=first.username, password=first.password,
        environment={"LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": None},
    )  # fmt: skip
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def test_label_studios_refusal_of_private_addresses(ward, guarded, whole, backend):
    report = ward.examine("--project", whole, server=guarded)
    report.failed("address", f"refuses {backend}", "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false")
    report.failed("connected", "Label Studio calls it 'Disconnected'")
    assert report.mark("decode") == "ok"
    before = guarded.api("GET", f"/api/ml?project={whole}")
    empty = guarded.create_project("doctor guarded", CLICKS)
    report = ward.examine("--project", empty, "--backend", backend, server=guarded)
    report.failed("address", f"refuses {backend}")
    report.failed("attached", "no ML backend is attached")
    assert guarded.api("GET", f"/api/ml?project={empty}") == []
    assert len(guarded.api("GET", f"/api/ml?project={whole}")) == len(before) == 1


def test_credentials_that_differ(ward):
    number = ward.project()
    row = {"auth_method": "BASIC_AUTH", **LOGIN}
    ours = {"BASIC_AUTH_USER": LOGIN["basic_auth_user"], "BASIC_AUTH_PASS": "second-secret"}
    with ward.backend(**LOGIN) as url:
        ward.attach(number, url, **row)
        report = ward.examine("--project", number, **{**ours, "BASIC_AUTH_PASS": LOGIN["basic_auth_pass"]})
        assert report.mark("connected") == "ok" and report.mark("predict") in QUIET, report.output
    port = int(url.rpartition(":")[2])
    with ward.backend(port=port, **{**LOGIN, "basic_auth_pass": "second-secret"}):
        ward.examine("--project", number, **ours).failed("connected", "another password than BASIC_AUTH_PASS")
        ward.examine("--project", number).failed("connected", "other credentials", "environment of the ML backend")
    with ward.backend(port=port, basic_auth_user="somebody", basic_auth_pass="second-secret"):
        report = ward.examine("--project", number, **{**ours, "BASIC_AUTH_USER": "somebody"})
        report.failed("connected", "another user name than BASIC_AUTH_USER")


def test_credentials_that_label_studio_was_never_told(ward):
    number = ward.project()
    with ward.backend() as url:
        ward.attach(number, url)
    with ward.backend(port=int(url.rpartition(":")[2]), **LOGIN):
        environment = {name.upper(): value for name, value in LOGIN.items()}
        ward.examine("--project", number, **environment).failed("connected", "sends it no credentials")


def test_events_without_credentials_are_remarked_or_have_them(ward):
    number = ward.project()
    environment = {name.upper(): value for name, value in LOGIN.items()}
    # without a token of its own the backend can't write its secret into the webhook
    with ward.backend(**LOGIN, label_studio_api_key="") as url:
        ward.attach(number, url, auth_method="BASIC_AUTH", **LOGIN)
        report = ward.examine("--project", number, **environment)
        assert report.mark("webhook") == "note" and "X-Webhook-Secret" in report.checks["webhook"]["text"]
    with ward.backend(**LOGIN, port=int(url.rpartition(":")[2])):
        deadline = time.monotonic() + 60
        while ward.examine("--project", number, **environment).mark("webhook") != "ok":
            assert time.monotonic() < deadline


def test_events_that_are_not_sent(ward, backend):
    number = ward.project()
    ward.attach(number, backend)
    (hook,) = ward.label_studio.api("GET", f"/api/webhooks/?project={number}")
    ward.label_studio.api("PATCH", f"/api/webhooks/{hook['id']}/", {"is_active": False})
    ward.examine("--project", number).failed("webhook", "switched off", "Settings > Webhooks")
    ward.label_studio.api("DELETE", f"/api/webhooks/{hook['id']}/")
    ward.examine("--project", number).failed("webhook", "no webhook for it", "attach the backend again")


def test_a_version_that_label_studio_keeps(ward, backend):
    number = ward.project()
    row = ward.attach(number, backend, auto_update=False, model_version="of last year")
    ward.examine("--project", number).failed("version", "'of last year', the model is 'fake-0001'", f"/api/ml/{row}")


def test_a_model_that_can_not_be_loaded(ward):
    number = ward.project()

    def refuse():
        raise PromptError("There is no such model; name another.")

    with ward.backend() as url:
        ward.attach(number, url)
    with ward.backend(refuse, port=int(url.rpartition(":")[2])):
        ward.examine("--project", number).failed("connected", "answers /setup with", "There is no such model")
