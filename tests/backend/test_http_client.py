"""One request: which address is asked, and what an answer promises."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backend.errors import MediaError
from backend.hosts import HostRules
from backend.http_client import HttpClient
from backend.settings import Settings


@contextmanager
def listening(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A server that says the same to everybody and hangs up; its port, and what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(1 << 16))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1], asked
        finally:
            server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def client_for(port: int, *addresses: str) -> HttpClient:
    """A client for whom ``server`` has these addresses."""
    found = [(0, 0, 0, "", (address, port)) for address in addresses]
    return HttpClient(HostRules(f"http://server:{port}", (), lambda *_, **__: found))


def ask(client: HttpClient, port: int, method: str = "GET", body: bytes | None = None):
    return client.request(method, f"http://server:{port}/", time.monotonic() + 10, {}, body)


def test_who_was_reached_is_not_asked_again_under_another_address():
    with listening(b"") as (port, asked):
        client = client_for(port, "127.0.0.1", "127.0.0.1")
        with pytest.raises(MediaError, match="can't connect"), ask(client, port, "POST", b"make a task"):
            pass
    assert len(asked) == 1


def test_an_address_where_nobody_listens_is_passed_over():
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    with listening(good) as (port, _), ask(client_for(port, "127.0.0.2", "127.0.0.1"), port) as answer:
        assert b"".join(answer.chunks()) == b"hi"


def test_a_length_of_thousands_of_digits_is_too_much_and_no_surprise():
    boasting = b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nhi"
    with listening(boasting) as (port, _), ask(client_for(port, "127.0.0.1"), port) as answer:
        assert answer.length > Settings().media_max_bytes
        with pytest.raises(MediaError):
            list(answer.chunks())
