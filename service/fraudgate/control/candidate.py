"""The version that was loaded last and is not on trial yet: open and warm, for the trial that follows."""

import asyncio

from fraudgate.engines.fleet import Loaded
from fraudgate.engines.repository import Manifest

LIFETIME_SECONDS = 3_600.0


class Candidate:
    """Holds one engine, until it is taken, replaced, or ``LIFETIME_SECONDS`` old. On the scoring loop."""

    def __init__(self) -> None:
        self._held: tuple[str, Loaded] | None = None  # the digest of its manifest, and the engine
        self._expiry: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Candidate {self._held and self._held[1].name}>"

    def keep(self, manifest: Manifest, loaded: Loaded) -> None:
        """Hold an engine that was opened from the version of this manifest, in place of the one before."""
        self.release()
        self._held = manifest.digest, loaded
        self._expiry = asyncio.get_running_loop().call_later(LIFETIME_SECONDS, self.release)

    def take(self, manifest: Manifest) -> Loaded | None:
        """Give the engine away, if it is of this very version."""
        if self._held is None or self._held[0] != manifest.digest:
            return None
        loaded, self._held = self._held[1], None
        return loaded

    def release(self) -> None:
        """Let the engine go, if it is still here: it has never decided anything."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self._held is not None:
            self._held[1].opened.inference.close()
        self._held = self._expiry = None
