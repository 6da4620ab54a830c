"""Files of the Hugging Face hub: which there are at a commit, and fetching them so that a stop costs nothing.

The hub's own client begins a file anew after a restart; the files here have 10 GB. So the list of files, the address
and the credentials are the client's, the transfer is ours: bytes go to ``<file>.part``, a later run asks for the rest
only, and the file gets its name when its digest is the one that the hub announces.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from x2sam.errors import DownloadError

PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before another try, counted from the last byte that came
_SECONDS = 30.0  # without a byte, after which a connection counts as broken
_BLOCK = 1 << 20
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
Transferred = Callable[[int], None]


@dataclass(frozen=True)
class HubFile:
    """A file at a commit: its size in bytes and its digest, ``sha256`` of large files, git's ``blob`` id of others."""

    path: str
    size: int
    sha256: str | None = None
    blob: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """The files of a repository at one commit."""

    repository: str
    commit: str
    files: tuple[HubFile, ...]


class Hub:
    """The hub at ``HF_ENDPOINT``, or a mirror of it."""

    def __init__(self, endpoint: str | None = None):
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or huggingface_hub.constants.ENDPOINT).rstrip("/")

    def snapshot(self, repository: str, revision: str | None = None) -> Snapshot:
        """The files of a branch, tag or commit; of the newest commit where none is named.

        Raises DownloadError when the hub can't be reached or has no such repository or revision.
        """
        with self.errors(repository, revision):
            api = huggingface_hub.HfApi(endpoint=self.endpoint)
            found = api.model_info(repository, revision=revision, files_metadata=True, timeout=_SECONDS)
        if not found.sha:
            raise DownloadError(f"{self._host} names no commit of {repository}; check HF_ENDPOINT")
        files = tuple(_hub_file(entry) for entry in found.siblings or () if entry.size is not None)
        return Snapshot(repository, found.sha, files)

    def fetch(self, snapshot: Snapshot, file: HubFile, folder: Path, transferred: Transferred) -> Path:
        """The file below ``folder``, whole and with the right digest; what is there already is not fetched again.

        transferred: told how many further bytes of the file are here, those of earlier runs included

        Raises DownloadError when the connection stays broken, the disk is full or the content is another.
        """
        target = folder / file.path
        if target.is_file():
            transferred(file.size)
            return target
        part = target.with_name(target.name + ".part")
        with disk_errors(folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            part.touch()
            if part.stat().st_size > file.size:
                os.truncate(part, 0)
        transferred(part.stat().st_size)
        with self.errors(snapshot.repository, snapshot.commit):
            self._complete(snapshot, file, part, transferred)
        self._check(snapshot, file, part)
        os.replace(part, target)
        return target

    def cached(self, snapshot: Snapshot, file: HubFile) -> Path | None:
        """The file in the hub client's own cache, if it was fetched with that and is what the hub announces."""
        found = huggingface_hub.try_to_load_from_cache(snapshot.repository, file.path, revision=snapshot.commit)
        if not isinstance(found, str) or os.path.getsize(found) != file.size:
            return None
        return Path(found).resolve() if _is_announced(file, Path(found)) else None

    @contextmanager
    def errors(self, repository: str, revision: str | None = None) -> Iterator[None]:
        """What the hub's client raises, in a sentence that says what to do."""
        try:
            yield
        except GatedRepoError as error:
            raise DownloadError(
                f"{repository} is given only to people who accepted its terms on {self._host}; do that, then set "
                "HF_TOKEN to a token of your account"
            ) from error
        except RevisionNotFoundError as error:
            raise DownloadError(
                f"{repository} has no revision {revision}; take the newest one with --revision main (--base-revision "
                "main for the base model)"
            ) from error
        except RepositoryNotFoundError as error:
            raise DownloadError(
                f"{self._host} has no repository {repository} that may be read; check its name, and HF_TOKEN where "
                "it is private"
            ) from error
        except (HTTPError, HFValidationError, OfflineModeIsEnabled) as error:
            raise DownloadError(
                f"{repository} could not be fetched from {self._host} ({_reason(error)}); check the network and run "
                "this again, it goes on where it stopped, or fetch the checkpoint and the base model on another "
                "machine with 'hf download' and turn them into a model with 'python -m x2sam convert CHECKPOINT BASE'"
            ) from error

    @property
    def _host(self) -> str:
        return urlsplit(self.endpoint).netloc or self.endpoint

    def _complete(self, snapshot: Snapshot, file: HubFile, part: Path, transferred: Transferred) -> None:
        """Asks for the rest until it is there. Raises the client's error after the last pause without a byte."""
        waits = iter(PAUSES)
        while (have := part.stat().st_size) < file.size:
            failure: HTTPError | None = None
            try:
                self._append(snapshot, file, part, have, transferred)
            except HTTPError as error:
                if isinstance(error, HfHubHTTPError) and error.response.status_code not in _PASSING:
                    raise
                failure = error
            if part.stat().st_size > have:
                waits = iter(PAUSES)
                if failure is None:
                    continue
            pause = next(waits, None)
            if pause is None:
                raise failure or HTTPError("the answer ends too early")
            time.sleep(pause)

    def _append(self, snapshot: Snapshot, file: HubFile, part: Path, have: int, transferred: Transferred) -> None:
        url = huggingface_hub.hf_hub_url(
            snapshot.repository, file.path, revision=snapshot.commit, endpoint=self.endpoint
        )
        # as it is stored: positions in a compressed stream would mean nothing
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        client = huggingface_hub.get_session()
        with client.stream("GET", url, headers=headers, timeout=_SECONDS, follow_redirects=True) as response:
            hf_raise_for_status(response)
            begins = have if response.status_code == 206 else 0
            if begins != have:  # a server that can't give parts of a file
                transferred(-have)
            with disk_errors(part.parent), part.open("r+b") as out:
                out.truncate(begins)
                out.seek(begins)
                for block in response.iter_bytes():  # as they come: whoever gathers larger ones loses them in a break
                    begins += len(block)
                    if begins > file.size:
                        raise DownloadError(f"{self._host} sent more than the {file.size} bytes of {file.path}")
                    out.write(block)
                    transferred(len(block))

    def _check(self, snapshot: Snapshot, file: HubFile, part: Path) -> None:
        if _is_announced(file, part):
            return
        part.unlink()
        raise DownloadError(
            f"{file.path} of {snapshot.repository} is not what {self._host} announces, so it was dropped; run this "
            "again, and check HF_ENDPOINT if that does not help"
        )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """A folder that can't be written, or is full, as a DownloadError; what the network raises stays as it is."""
    try:
        yield
    except (HTTPError, OfflineModeIsEnabled):
        raise  # some of them are OSErrors too
    except OSError as error:
        raise DownloadError(f"{folder} can't be written ({error.strerror}); free space there or name another --out") \
            from error  # fmt: skip


def _hub_file(entry: huggingface_hub.hf_api.RepoSibling) -> HubFile:
    path = PurePosixPath(entry.rfilename)
    if path.is_absolute() or ".." in path.parts:
        raise DownloadError(f"the hub lists a file with the name {entry.rfilename!r}; check HF_ENDPOINT")
    return HubFile(entry.rfilename, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)


def _is_announced(file: HubFile, path: Path) -> bool:
    if path.stat().st_size != file.size:
        return False
    if file.sha256:
        return digest_of(path, "sha256") == file.sha256
    return file.blob is None or digest_of(path, "sha1", b"blob %d\0" % file.size) == file.blob


def digest_of(path: Path, kind: str = "sha256", head: bytes = b"") -> str:
    """Hexadecimal digest of ``head`` and a file."""
    digest = hashlib.new(kind, head)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
