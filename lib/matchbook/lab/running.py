"""What is being computed now: one run of an experiment, or one artifact.

`fit` and `artifact` look here for a place to keep checkpoints, so that nobody has to hand them a
path. Unusual: a context variable, set only while a measurement or an artifact's maker is at work.
"""

import hashlib
import shutil
from contextvars import ContextVar, Token
from pathlib import Path
from types import TracebackType
from typing import Any

from matchbook.lab.passport import Meter, library_digest, make_passport
from matchbook.lab.records import Identity
from matchbook.lab.session import Session

_CURRENT: ContextVar["Running | None"] = ContextVar("matchbook_running", default=None)


def current() -> "Running | None":
    """The innermost computation at work in this thread, if any."""
    return _CURRENT.get()


class Running:
    """A computation at work, as a context manager; leaves a note on what fails inside.

    Args:
        identity: of the run, or of the run that an artifact is made for.
        profile: of the experiment; None for an artifact outside of one.
        label: names it in progress lines and in the note, such as `"distilled, seed 3"`.
        folder: of its checkpoints; the run's own key where None.
    """

    def __init__(
        self,
        identity: Identity,
        session: Session,
        *,
        profile: str | None,
        label: str,
        folder: str | None = None,
    ):
        self.identity, self.session, self.profile, self.label = identity, session, profile, label
        self.meter = Meter()
        self.folder = session.runs / "checkpoints" / (folder or identity.key)
        self._fits = 0
        self._token: Token | None = None

    def __enter__(self) -> "Running":
        if self.session.fresh:
            self.clean()
        self._token = _CURRENT.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)
        if isinstance(error, Exception):
            error.add_note(f"while computing {self.label} of {self.identity.experiment}")

    def checkpoints(self, name: str) -> Path:
        """A folder for the next training loop; a pure computation asks in the same order again."""
        self._fits += 1
        return self.folder / f"{self._fits:02d}-{name}"

    def code(self) -> str:
        """Digest of the code at work: a checkpoint of other code is not continued."""
        notebook = self.session.root / "notebooks" / f"{self.identity.experiment}.py"
        own = notebook.read_bytes() if notebook.is_file() else b""
        return hashlib.sha256(library_digest().encode() + own).hexdigest()[:16]

    def passport(self) -> dict[str, Any]:
        """How it was made, up to now."""
        return make_passport(
            root=self.session.root,
            notebook=self.identity.experiment,
            profile=self.profile,
            params=self.identity.params,
            meter=self.meter,
        )

    def clean(self) -> None:
        """Delete the checkpoints: the result is safe, or must be made afresh."""
        shutil.rmtree(self.folder, ignore_errors=True)
