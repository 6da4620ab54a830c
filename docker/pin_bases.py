"""Writes the digests of the base images into docker/, as the registries tell them.

    python docker/pin_bases.py [--check] [IMAGE...]

Each image that a Dockerfile builds on or a compose file starts is asked for at its registry by its tag. What the
registry sends is hashed here, and only a digest that was computed from it is written, behind the tag:
``python:3.11-slim-bookworm@sha256:...``. An image whose registry does not answer keeps its tag, is named, and makes the
exit code 1. ``--check`` writes nothing and tells which digests would change.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path

import requests

FOLDER = Path(__file__).resolve().parent
REFERENCE = re.compile(
    r"^(?P<before>\s*(?:ARG BASE=|image:\s*))(?P<name>[\w./:-]+?):(?P<tag>[\w][\w.-]*)"
    r"(?P<digest>@sha256:[0-9a-f]{64})?$",
    re.MULTILINE,
)
OWN = "x2sam-"
"""Names of images that are built here begin so; no registry has them."""
KINDS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
SECONDS = 20.0
MANIFEST_BYTES = 4 << 20


class RegistryError(Exception):
    """A registry did not tell a digest; the text says why."""


def place_of(name: str) -> tuple[str, str]:
    """Address of the registry and name of the repository there; without a host it is the one that Docker takes."""
    host, _, rest = name.partition("/")
    if rest and ("." in host or ":" in host or host == "localhost"):
        scheme = "http" if host.startswith(("localhost", "127.0.0.1")) else "https"
        return f"{scheme}://{host}", rest
    return "https://registry-1.docker.io", name if "/" in name else f"library/{name}"


def digest_of(name: str, tag: str) -> str:
    """``sha256:...`` of what a tag names now, computed from what the registry sent.

    :raises RegistryError: it did not answer, refused, or announced another digest than that of what it sent.
    """
    registry, repository = place_of(name)
    address = f"{registry}/v2/{repository}/manifests/{tag}"
    try:
        answer = _asked(address, {})
        if answer.status_code == 401:
            answer = _asked(address, {"Authorization": f"Bearer {_token(answer.headers.get('WWW-Authenticate', ''))}"})
    except (requests.RequestException, ValueError) as error:
        raise RegistryError(f"{registry} does not answer ({type(error).__name__})") from error
    if answer.status_code != 200 or len(answer.content) > MANIFEST_BYTES:
        raise RegistryError(f"{registry} answered {answer.status_code} for {repository}:{tag}")
    digest = f"sha256:{hashlib.sha256(answer.content).hexdigest()}"
    announced = answer.headers.get("Docker-Content-Digest", digest)
    if announced != digest:
        raise RegistryError(f"{registry} announces {announced}, but what it sent is {digest}")
    return digest


def _asked(address: str, headers: dict[str, str]) -> requests.Response:
    return requests.get(address, headers={"Accept": KINDS, **headers}, timeout=SECONDS)


def _token(challenge: str) -> str:
    """A token for reading, from where the registry says that it is to be had."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = fields.pop("realm", "")
    if not realm.startswith(("https://", "http://127.0.0.1", "http://localhost")):
        raise ValueError("no place to get a token from")
    answer = requests.get(realm, params=fields, timeout=SECONDS)
    answer.raise_for_status()
    return answer.json()["token"]


def pin(folder: Path, only: list[str], write: bool) -> bool:
    """Brings the files below ``folder`` up to date; whether every image was answered for and, unless it may write,
    none changed."""
    good, known = True, {}
    for path in sorted([*folder.glob("*Dockerfile"), *folder.glob("*.yml")]):
        text = path.read_text(encoding="utf-8")

        def pinned(match: re.Match[str]) -> str:
            nonlocal good
            name, tag = match["name"], match["tag"]
            if name.startswith(OWN) or (only and name not in only):
                return match[0]
            key = (name, tag)
            if key not in known:
                try:
                    known[key] = digest_of(name, tag)
                    print(f"{name}:{tag}  {known[key]}")
                except RegistryError as error:
                    known[key] = None
                    print(f"{name}:{tag}  left as it is: {error}", file=sys.stderr)
            if known[key] is None:
                good = False
                return match[0]
            if not write and (match["digest"] or "")[1:] != known[key]:
                good = False
            return f"{match['before']}{name}:{tag}@{known[key]}"

        changed = REFERENCE.sub(pinned, text)
        if write and changed != text:
            path.write_text(changed, encoding="utf-8")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="only these, by name without tag")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    return 0 if pin(FOLDER, options.images, write=not options.check) else 1


if __name__ == "__main__":
    sys.exit(main())
