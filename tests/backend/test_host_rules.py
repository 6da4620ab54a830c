from __future__ import annotations

import socket

import pytest

from backend.errors import MediaError, MediaRefusedError, SettingsError
from backend.hosts import HostRules, Origin, is_private

NAMES = {
    "ls.internal": ["10.0.0.5"],
    "cdn.example.com": ["93.184.216.34"],
    "evil.example.com": ["93.184.216.34", "127.0.0.1"],
    "store.internal": ["192.168.1.9"],
    "other.org": ["93.184.216.35"],
}


def resolve(host, port, type):
    if host not in NAMES:
        raise socket.gaierror("unknown")
    return [(socket.AF_INET, type, 6, "", (address, port)) for address in NAMES[host]]


def addresses(url, *hosts):
    return HostRules("http://ls.internal:8080", hosts, resolve).addresses(Origin.of(url))


def test_label_studio_may_be_private():
    assert addresses("http://ls.internal:8080/data/upload/x.png") == ["10.0.0.5"]
    assert addresses("http://LS.internal.:8080/x") == ["10.0.0.5"]


@pytest.mark.parametrize("url", ["http://ls.internal/x", "https://ls.internal:8080/x", "http://ls.internal:9090/x"])
def test_another_port_or_scheme_is_another_server(url):
    with pytest.raises(MediaRefusedError, match=r"X2SAM_MEDIA_HOSTS.*LABEL_STUDIO_URL begins with http"):
        addresses(url)


def test_only_named_hosts():
    with pytest.raises(MediaRefusedError, match=r"cdn\.example\.com"):
        addresses("https://cdn.example.com/a.png")
    assert addresses("https://cdn.example.com/a.png", "cdn.example.com") == ["93.184.216.34"]
    assert addresses("https://cdn.example.com/a.png", "*.example.com") == ["93.184.216.34"]
    assert addresses("https://other.org/a.png", "*") == ["93.184.216.35"]
    with pytest.raises(MediaRefusedError):
        addresses("https://notexample.com/a.png", "*.example.com")


def test_a_named_host_may_be_private_but_not_a_matched_one():
    assert addresses("http://store.internal/a.png", "store.internal") == ["192.168.1.9"]
    for pattern in ("*", "*.internal"):
        with pytest.raises(MediaRefusedError, match="private"):
            addresses("http://store.internal/a.png", pattern)


def test_one_private_address_among_public_ones_is_enough():
    with pytest.raises(MediaRefusedError, match="private"):
        addresses("http://evil.example.com/a.png", "*")


def test_unusual_ports_must_be_named():
    for hosts in (("store.internal",), ("*",), ("*.internal",)):
        with pytest.raises(MediaRefusedError):
            addresses("http://store.internal:6379/", *hosts)
    assert addresses("http://store.internal:9000/", "store.internal:9000") == ["192.168.1.9"]


def test_unknown_names():
    with pytest.raises(MediaError, match="unknown"):
        addresses("http://nowhere.test/a.png", "nowhere.test")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://h/x", "gopher://h/x", "/etc/passwd", "http:///x", "http://h:x/"]
)
def test_other_schemes(url):
    with pytest.raises(MediaRefusedError):
        Origin.of(url)


@pytest.mark.parametrize("pattern", ["*example.com", "**"])
def test_patterns_are_simple(pattern):
    with pytest.raises(SettingsError, match="pattern"):
        HostRules("http://ls.internal", (pattern,), resolve)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_private_addresses(address):
    assert is_private(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34"])
def test_public_addresses(address):
    assert not is_private(address)
