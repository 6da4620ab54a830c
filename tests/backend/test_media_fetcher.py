from __future__ import annotations

import base64
import gzip
import json
import ssl
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from picture_server import PictureServer, picture_bytes

from backend.errors import MediaError, MediaRefusedError, MediaTimeoutError, MediaTooLargeError, SettingsError
from backend.hosts import HostRules
from backend.media import KeyedLocks, KeyInUseError

CERTIFICATE = Path(__file__).parent / "data" / "certificate.pem"
UPLOAD = "/data/upload/3/photo.png"


def jwt(**content):
    return "h." + base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=") + ".s"


def test_uploads_and_local_files_come_from_label_studio(fetcher_for, pictures):
    pictures.files |= {UPLOAD: b"upload", "photos/dog.jpg": b"dog"}
    fetcher = fetcher_for()
    assert fetcher.read(UPLOAD) == b"upload"
    assert fetcher.read("/data/local-files/?d=photos/dog.jpg") == b"dog"
    assert fetcher.read(f"{pictures.url}/data/upload/3/photo.png") == b"upload"
    assert "Authorization" not in pictures.seen[0][1]


def test_names_with_anything_in_them(fetcher_for, pictures):
    pictures.files["photos/имя файла 画像 100%.jpg"] = b"name"
    assert fetcher_for().read("/data/local-files/?d=photos/имя файла 画像 100%.jpg") == b"name"


def test_a_server_below_a_path(fetcher_for, pictures):
    pictures.files["/labels/data/upload/1/a.png"] = b"below"
    fetcher = fetcher_for(label_studio_url=pictures.url + "/labels")
    assert fetcher.read("/data/upload/1/a.png") == b"below"
    assert fetcher.read("/labels/data/upload/1/a.png") == b"below"


def test_old_token(fetcher_for, pictures):
    pictures.files[UPLOAD], pictures.token = b"upload", "Token " + "a" * 40
    assert fetcher_for(label_studio_api_key="a" * 40).read(UPLOAD) == b"upload"
    with pytest.raises(MediaError, match="LABEL_STUDIO_API_KEY"):
        fetcher_for(label_studio_api_key="b" * 40).read("/data/upload/3/other.png")


def test_a_personal_token_is_exchanged_and_renewed_when_it_is_refused(fetcher_for, pictures):
    pictures.files |= {UPLOAD: b"upload", "/data/upload/2": b"second"}
    pictures.token = "Bearer of nobody"
    fetcher = fetcher_for(label_studio_api_key=jwt(token_type="refresh"))
    assert fetcher.read(UPLOAD) == b"upload"
    assert pictures.exchanged == 1
    pictures.token = "Bearer of somebody else"
    assert fetcher.read("/data/upload/2") == b"second"
    assert pictures.exchanged == 2


def test_files_are_fetched_once(fetcher_for, pictures):
    pictures.files[UPLOAD], pictures.delay = b"upload", 0.1
    fetcher = fetcher_for()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(fetcher.read, [UPLOAD] * 8)) == {b"upload"}
    assert len(pictures.seen) == 1


def test_a_file_that_vanished_from_the_cache_is_fetched_again(fetcher_for, pictures):
    pictures.files[UPLOAD] = b"upload"
    fetcher = fetcher_for()
    original = fetcher.fetch

    def fetch_and_lose(address):
        fetcher.fetch = original
        file = original(address)
        fetcher._cache.forget(fetcher.absolute(address))
        return file

    fetcher.fetch = fetch_and_lose
    assert fetcher.read(UPLOAD) == b"upload"


def test_other_hosts_must_be_named_and_get_no_token(fetcher_for, pictures, other):
    url = f"{other.url}/a.png"
    with pytest.raises(MediaRefusedError, match="X2SAM_MEDIA_HOSTS"):
        fetcher_for(label_studio_api_key="a" * 40).read(url)
    assert other.seen == []
    allowed = fetcher_for(label_studio_api_key="a" * 40, media_hosts=(f"127.0.0.1:{other.port}",))
    assert allowed.read(url) == b"from elsewhere"
    assert "Authorization" not in other.seen[0][1]


def test_a_redirect_is_checked_and_loses_the_token(fetcher_for, pictures, other):
    pictures.token = "Token " + "a" * 40
    pictures.redirects[UPLOAD] = f"{other.url}/a.png"
    with pytest.raises(MediaRefusedError):
        fetcher_for(label_studio_api_key="a" * 40).read(UPLOAD)
    assert other.seen == []
    allowed = fetcher_for(label_studio_api_key="a" * 40, media_hosts=(f"127.0.0.1:{other.port}",))
    assert allowed.read(UPLOAD) == b"from elsewhere"
    assert pictures.seen[-1][1]["Authorization"] == pictures.token
    assert "Authorization" not in other.seen[0][1]


def test_a_redirect_back_and_relative_ones(fetcher_for, pictures):
    pictures.files["/data/real.png"] = b"real"
    pictures.redirects |= {UPLOAD: "/data/step", "/data/step": "real.png"}
    assert fetcher_for().read(UPLOAD) == b"real"


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "ftp://x/y", "http://[x/"]
)
def test_redirects_to_forbidden_places(fetcher_for, pictures, target):
    pictures.redirects[UPLOAD] = target
    with pytest.raises(MediaRefusedError):
        fetcher_for().read(UPLOAD)


def test_redirects_in_a_circle(fetcher_for, pictures):
    pictures.redirects |= {UPLOAD: "/data/b", "/data/b": UPLOAD}
    with pytest.raises(MediaError, match="redirects"):
        fetcher_for().read(UPLOAD)


def test_the_checked_address_is_the_one_that_is_used(fetcher_for, pictures, settings):
    """A name that resolves to something else the second time gains nothing."""
    asked = []

    def resolve(host, port, type):
        asked.append(host)
        return [(2, type, 6, "", ("127.0.0.1", port))] if len(asked) == 1 else [(2, type, 6, "", ("127.0.0.9", port))]

    pictures.files["/data/x"] = b"right"
    url = f"http://rebind.test:{pictures.port}"
    rules = HostRules(url, (), resolve)
    assert fetcher_for(rules, label_studio_url=url).read("/data/x") == b"right"
    assert asked == ["rebind.test"]
    assert pictures.seen[0][1]["Host"] == f"rebind.test:{pictures.port}"


def test_the_second_address_of_a_name_is_tried(fetcher_for, pictures):
    def resolve(host, port, type):
        return [(10, type, 6, "", ("::1", port, 0, 0)), (2, type, 6, "", ("127.0.0.1", port))]

    pictures.files["/data/x"] = b"right"
    url = f"http://localhost:{pictures.port}"
    assert fetcher_for(HostRules(url, (), resolve), label_studio_url=url).read("/data/x") == b"right"


def test_proxies_and_netrc_of_the_environment_are_not_used(fetcher_for, pictures, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    pictures.files[UPLOAD] = b"upload"
    assert fetcher_for().read(UPLOAD) == b"upload"


def test_a_file_that_is_too_large(fetcher_for, pictures):
    pictures.files[UPLOAD] = b"x" * 2001
    with pytest.raises(MediaTooLargeError, match="X2SAM_MEDIA_MAX_MB"):
        fetcher_for(media_max_bytes=2000).read(UPLOAD)
    assert fetcher_for(media_max_bytes=2001).read(UPLOAD) == b"x" * 2001


def test_a_slow_server(fetcher_for, pictures):
    pictures.files[UPLOAD], pictures.delay = b"x", 3
    start = time.monotonic()
    with pytest.raises(MediaTimeoutError, match="X2SAM_MEDIA_TIMEOUT"):
        fetcher_for(media_timeout=0.3).read(UPLOAD)
    assert time.monotonic() - start < 2


def test_a_server_that_sends_byte_after_byte(fetcher_for, pictures):
    pictures.files[UPLOAD], pictures.drip = b"x" * 300, 0.02
    start = time.monotonic()
    with pytest.raises(MediaTimeoutError):
        fetcher_for(media_timeout=0.3).read(UPLOAD)
    assert time.monotonic() - start < 2


def test_half_a_file_is_not_kept(fetcher_for, pictures):
    pictures.files[UPLOAD], pictures.cut = b"x" * 1000, True
    fetcher = fetcher_for()
    with pytest.raises(MediaError, match="broke"):
        fetcher.read(UPLOAD)
    pictures.cut = False
    assert fetcher.read(UPLOAD) == b"x" * 1000


def test_nobody_listens(fetcher_for):
    with pytest.raises(MediaError, match="can't connect"):
        fetcher_for(label_studio_url="http://127.0.0.1:9").read(UPLOAD)


def test_missing_files(fetcher_for):
    with pytest.raises(MediaError, match="storage covers"):
        fetcher_for().read("/data/upload/9/none.png")


def test_data_urls(fetcher_for):
    content = picture_bytes(8, 6)
    fetcher = fetcher_for()
    assert fetcher.read("data:image/png;base64," + base64.b64encode(content).decode()) == content
    assert fetcher.read("data:text/plain,a%20b") == b"a b"


@pytest.mark.parametrize(
    "address",
    ["", "  ", None, 5, ["a"], "data:image/png;base64,???", "data:nothing", "data:image/png;base64," + "A" * 9000],
)
def test_no_address_and_damaged_data_urls(fetcher_for, address):
    with pytest.raises(MediaError):
        fetcher_for(media_max_bytes=2000).read(address)


@pytest.mark.parametrize(
    "address",
    [
        "/etc/passwd",
        "etc/passwd",
        "file:///etc/passwd",
        "//127.0.0.1/x",
        "s3://bucket/key",
        "http://127.0.0.1:22/",
        "http://[::1]/x",
        "http://user@127.0.0.1/x",
        "http://0x7f000001/",
        "http://[bad/x",
        "javascript:alert(1)",
    ],
)
def test_places_that_are_never_read(fetcher_for, address):
    with pytest.raises(MediaRefusedError):
        fetcher_for(media_hosts=("*",)).read(address)


@pytest.mark.parametrize("path", ["/data/../api/users", "/api/projects/1/export", "/data/upload/../../x", "/database"])
def test_other_pages_of_label_studio_are_not_for_tasks_to_name(fetcher_for, pictures, path):
    for address in (path, pictures.url + path):
        with pytest.raises(MediaRefusedError, match="outside /data/"):
            fetcher_for(label_studio_api_key="a" * 40).read(address)
    assert pictures.seen == []


def test_a_query_that_climbs_is_label_studios_business(fetcher_for, pictures):
    with pytest.raises(MediaError, match="no such picture"):
        fetcher_for().read("/data/local-files/?d=../../x")
    assert len(pictures.seen) == 1


def test_https_checks_the_certificate_of_the_name(fetcher_for):
    """The certificate is for pics.test and was signed by itself."""
    server = PictureServer()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, CERTIFICATE.with_name("key-for-tests-only.pem"))
    server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
    server.files["/data/x"] = b"safe"

    def resolve(host, port, type):
        return [(2, type, 6, "", ("127.0.0.1", port))]

    def fetch(host, **changes):
        url = f"https://{host}:{server.port}"
        return fetcher_for(HostRules(url, (), resolve), label_studio_url=url, **changes).read("/data/x")

    trusted = str(CERTIFICATE)
    try:
        for host, changes in (("pics.test", {}), ("other.test", {"ca_bundle": trusted})):
            with pytest.raises(MediaError, match="can't connect"):
                fetch(host, **changes)
        assert fetch("pics.test", ca_bundle=trusted) == b"safe"
    finally:
        server.close()


def test_threads_do_not_wait_for_each_others_files(fetcher_for, pictures):
    pictures.files |= {f"/data/{n}": bytes((n,)) for n in range(4)}
    pictures.delay = 0.5
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fetcher_for().read, [f"/data/{n}" for n in range(4)]))
    assert pictures.most_at_once > 1


def test_nobody_waits_without_end_for_what_another_fetches(fetcher_for, pictures):
    locks = KeyedLocks()
    with locks.hold("a"), locks.hold("b", 0.01), pytest.raises(KeyInUseError), locks.hold("a", 0.01):
        pass
    assert not locks._locks and not locks._users
    fetcher = fetcher_for(media_timeout=0.05)
    with fetcher._locks.hold(pictures.url + UPLOAD), pytest.raises(MediaTimeoutError, match="Somebody else"):
        fetcher.fetch(UPLOAD)


def test_a_server_whose_headers_never_end(fetcher_for, pictures):
    """Every byte starts a socket's own timeout anew, so only a clock of ours ends this."""
    pictures.drip_headers = 0.02
    start = time.monotonic()
    with pytest.raises(MediaTimeoutError):
        fetcher_for(media_timeout=0.3).read(UPLOAD)
    assert time.monotonic() - start < 2


def test_packed_content(fetcher_for, pictures):
    content = picture_bytes(64, 48)
    pictures.files[UPLOAD], pictures.headers = gzip.compress(content), {"Content-Encoding": "gzip"}
    assert fetcher_for().read(UPLOAD) == content
    pictures.files["/data/cut"] = gzip.compress(content)[:-20]
    pictures.files["/data/no"] = content
    for path in ("/data/cut", "/data/no"):
        with pytest.raises(MediaError):
            fetcher_for().read(path)
    pictures.headers = {"Content-Encoding": "gzip, br"}
    with pytest.raises(MediaError, match="packed"):
        fetcher_for().read("/data/cut")


def test_a_bomb_of_packed_content(fetcher_for, pictures, tmp_path):
    pictures.files[UPLOAD], pictures.headers = gzip.compress(bytes(300_000_000), 9), {"Content-Encoding": "gzip"}
    tracemalloc.start()
    with pytest.raises(MediaTooLargeError):
        fetcher_for(media_max_bytes=1_000_000).read(UPLOAD)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000
    assert list((tmp_path / "media").iterdir()) == []


def test_other_content_for_the_same_address_and_the_other_way_round(fetcher_for, pictures):
    pictures.files |= {"/data/a": b"same", "/data/b": b"same", "/data/c": b"other"}
    fetcher = fetcher_for()
    digests = [fetcher.fetch(f"/data/{name}").digest for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_a_redirect_to_a_private_address(fetcher_for, pictures, settings):
    """A host that is allowed by a pattern leads into the network: first by redirect, then by its name."""
    named = {"pics.example.com": "127.0.0.1", "inside.example.com": "10.0.0.7"}

    def resolve(host, port, type):
        return [(2, type, 6, "", (named[host], port))]

    pictures.redirects["/go"] = "http://inside.example.com/secret"
    here = f"pics.example.com:{pictures.port}"
    rules = HostRules(settings.label_studio_url, (here, "*.example.com"), resolve)
    with pytest.raises(MediaRefusedError, match=r"inside\.example\.com leads to a private address"):
        fetcher_for(rules).read(f"http://{here}/go")
    assert [path for path, _ in pictures.seen] == ["/go"]


def test_a_name_that_turns_private_while_redirects_are_followed(fetcher_for, pictures, settings):
    """Its first answer is public and the second is not; each hop looks again, and connects to what it saw."""
    answers = iter(["127.0.0.1", "127.0.0.1", "192.168.1.1"])
    asked = []

    def resolve(host, port, type):
        asked.append(host)
        return [(2, type, 6, "", (next(answers), port))]

    other = f"rebind.example.com:{pictures.port}"
    pictures.redirects |= {"/1": f"http://{other}/2", "/2": "http://rebind.example.com/3"}
    rules = HostRules(settings.label_studio_url, (other, "*.example.com"), resolve)
    with pytest.raises(MediaRefusedError, match="private"):
        fetcher_for(rules).read(f"http://{other}/1")
    assert asked == ["rebind.example.com"] * 3
    assert [path for path, _ in pictures.seen] == ["/1", "/2"]


@pytest.mark.parametrize("target", ["/api/users", "/data/../api/users", "/user/logout", "/ls2/data/x"])
def test_nobody_leads_back_into_other_pages_of_label_studio(fetcher_for, pictures, other, target):
    other.redirects["/a.png"] = pictures.redirects[UPLOAD] = pictures.url + target
    fetcher = fetcher_for(media_hosts=(f"127.0.0.1:{other.port}",), label_studio_api_key="a" * 40)
    for address in (f"{other.url}/a.png", UPLOAD):
        with pytest.raises(MediaRefusedError, match="outside /data/"):
            fetcher.read(address)
    assert [path for path, _ in pictures.seen] == [UPLOAD]


def test_the_token_stays_below_the_path_of_label_studio(fetcher_for, pictures):
    pictures.files["/elsewhere/x.png"] = b"of another application"
    pictures.redirects["/labels/data/upload/1"] = "/elsewhere/x.png"
    fetcher = fetcher_for(label_studio_url=pictures.url + "/labels", label_studio_api_key="a" * 40)
    assert fetcher.read("/data/upload/1") == b"of another application"
    assert ["Authorization" in headers for _, headers in pictures.seen] == [True, False]


@pytest.mark.parametrize("internal, public", [("", "/labels"), ("/labels", ""), ("/inside", "/labels"), ("", "")])
def test_the_address_in_the_browser_may_differ(fetcher_for, pictures, internal, public):
    pictures.files[internal + "/data/upload/1/a.png"] = b"right"
    seen_from_outside = "https://labels.example.com" + public
    fetcher = fetcher_for(label_studio_url=pictures.url + internal, label_studio_public_url=seen_from_outside)
    for address in (f"{seen_from_outside}/data/upload/1/a.png", f"{public}/data/upload/1/a.png"):
        assert fetcher.absolute(address) == f"{pictures.url}{internal}/data/upload/1/a.png"
        assert fetcher.read(address) == b"right"


def test_paths_without_a_slash_are_label_studios_too(fetcher_for, pictures):
    pictures.files["/data/upload/1/a.png"] = b"right"
    assert fetcher_for().read("data/upload/1/a.png") == b"right"
    with pytest.raises(MediaRefusedError, match="X2SAM_MEDIA_DIRS"):
        fetcher_for().read("photos/a.png")


def test_a_bundle_of_certificates_that_is_none(fetcher_for):
    with pytest.raises(SettingsError, match="REQUESTS_CA_BUNDLE"):
        fetcher_for(ca_bundle="/no/such/file")


def test_names_of_addresses(fetcher_for, pictures, tmp_path):
    fetcher = fetcher_for(media_dirs=(str(tmp_path),))
    whole = pictures.url + UPLOAD
    assert fetcher.name_of(UPLOAD) == fetcher.name_of(whole) == fetcher.name_of(f" {whole}#x ") == whole
    assert fetcher.name_of("data:,a") == fetcher.name_of(" data:,a") != fetcher.name_of("data:,b")
    assert fetcher.name_of("a/b.png") == fetcher.name_of("/data/local-files/?d=a/b.png") == "folder:a/b.png"
    assert pictures.seen == []
