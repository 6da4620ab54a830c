"""Which hosts pictures may be fetched from, and at which network address.

Task data comes from users, so an address in it is a way into our network. A host is allowed when it is Label Studio's
own or named in the settings; one that is allowed only by a pattern (``*``, ``*.example.com``) must not lead to a
private address. The connection then goes to the very address that was checked, whatever the name resolves to a moment
later.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from backend.errors import MediaError, MediaRefusedError, SettingsError

_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Resolve = Callable[..., list]


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port of an address."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of a full URL.

        :raises MediaRefusedError: neither http nor https, or no usable host and port.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise MediaRefusedError("The address of the picture is malformed.") from error
        if parts.scheme not in _PORTS or not host:
            raise MediaRefusedError(
                "Pictures are fetched over http and https only; let Label Studio serve them, or import them by URL."
            )
        return cls(parts.scheme, host.rstrip(".").lower(), port or _PORTS[parts.scheme])

    @property
    def netloc(self) -> str:
        """Host and port as they stand in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


class HostRules:
    """The allow-list: Label Studio's origin, hosts by name, hosts by pattern."""

    def __init__(self, label_studio_url: str, media_hosts: tuple[str, ...] = (), resolve: Resolve = socket.getaddrinfo):
        self.label_studio = Origin.of(label_studio_url)
        self._exact = {entry for entry in media_hosts if not entry.startswith("*")}
        self._patterns = [entry for entry in media_hosts if entry.startswith("*")]
        for pattern in self._patterns:
            if pattern != "*" and not pattern.startswith("*."):
                raise SettingsError(f"X2SAM_MEDIA_HOSTS: '{pattern}' is no pattern; write '*' or '*.example.com'.")
        self._resolve = resolve

    def addresses(self, origin: Origin) -> list[str]:
        """The numeric addresses to connect to, in order of preference.

        :raises MediaRefusedError: the host is not on the list, or only by pattern and leads to a private address.
        :raises MediaError: the name does not resolve.
        """
        by_name = origin == self.label_studio or self._named(origin)
        if not by_name and not self._matched(origin):
            same = f" If that is Label Studio, LABEL_STUDIO_URL begins with {origin.scheme}://{origin.netloc}."
            raise MediaRefusedError(
                f"Pictures on {origin.netloc} may not be fetched: add the host to X2SAM_MEDIA_HOSTS of the ML backend."
                + (same if origin.host == self.label_studio.host else "")
            )
        try:
            found = self._resolve(origin.host, origin.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise MediaError(f"The host {origin.netloc} of the picture is unknown to the ML backend.") from error
        addresses = list(dict.fromkeys(entry[4][0] for entry in found))
        if not by_name and any(is_private(address) for address in addresses):
            raise MediaRefusedError(
                f"The host {origin.netloc} leads to a private address: name it in X2SAM_MEDIA_HOSTS to allow that."
            )
        return addresses

    def _named(self, origin: Origin) -> bool:
        usual = origin.port == _PORTS[origin.scheme]
        return f"{origin.host}:{origin.port}" in self._exact or (usual and origin.host in self._exact)

    def _matched(self, origin: Origin) -> bool:
        usual = origin.port == _PORTS[origin.scheme]
        return usual and any(origin.host.endswith(pattern[1:]) for pattern in self._patterns)


def is_private(address: str) -> bool:
    """Whether an IP address is anything but a public unicast address, also when wrapped into an IPv6 one."""
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    inner = [ip]
    if ip.version == 6:
        if ip in _NAT64:
            inner.append(ipaddress.ip_address(int(ip) & 0xFFFFFFFF))
        inner += [wrapped for wrapped in (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())) if wrapped]
        if ip.ipv4_mapped:
            inner.remove(ip)
    return any(not one.is_global or one.is_multicast for one in inner)
