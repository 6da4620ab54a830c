"""Names for annotators that tell nothing about them: a digest of their number, under a key that stays here."""

from __future__ import annotations

from hashlib import blake2s
from pathlib import Path

from backend.auth import kept_secret
from backend.settings import Settings

_KEY_FILE = "annotator-key"
SOMEBODY = "unknown"


class Pseudonyms:
    """The same name for the same person as long as the key is kept; nobody without it finds the person."""

    def __init__(self, key: str):
        self._key = blake2s(key.encode()).digest()

    @classmethod
    def wanted(cls, settings: Settings) -> Pseudonyms | None:
        """With the key in ``X2SAM_STATE_DIR``; None where the settings do not ask for numbers by annotator.

        :raises SettingsError: the key can't be read or written.
        """
        if not settings.report_annotators:
            return None
        return cls(kept_secret(Path(settings.state_dir).expanduser(), _KEY_FILE))

    def of(self, person: int | None) -> str:
        """The name of the annotator with this number in Label Studio."""
        if person is None:
            return SOMEBODY
        return blake2s(str(person).encode(), key=self._key, digest_size=4).hexdigest()
