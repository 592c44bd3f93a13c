"""An experiment: arms x seeds of one measurement; what is recorded is replayed, the rest computed.

Each run is written the moment it is finished. Unusual: results always come out of records, also
those computed just now, so a picture cannot depend on what only exists while computing.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from matplotlib.figure import Figure

from matchbook.lab.profiles import PROFILES, nearest
from matchbook.lab.records import DamagedRecord, Identity, Record, read_record, write_record
from matchbook.lab.runs import Measured, Runs
from matchbook.lab.session import Session, session


class MissingRecord(LookupError):
    """A run has no record, and the session asked for nothing to be computed."""


class RunFinished(Exception):
    """The single run that the session asked for stands in its record file `path`."""

    def __init__(self, path: Path):
        super().__init__(f"finished {path.name}")
        self.path = path


class Experiment:
    """One notebook's experiment at one profile.

    Args:
        name: the notebook, such as `"gemma2/02_first_distillation"`.
        version: raise it when the measurement changes, so that older records are not replayed.
        profile: names the folder of pictures; no part of a record's key.
        data: digest of the data that runs depend on, if any.
        revised: versions of arms whose measurement alone has changed, by shell pattern, such as
            `{"*+mixture": 2}`; what was measured of the others stays valid.
    """

    def __init__(
        self,
        name: str,
        *,
        version: int,
        profile: str,
        data: str | None = None,
        revised: Mapping[str, int] | None = None,
    ):
        if profile not in PROFILES:
            raise ValueError(
                f"profile is one of {list(PROFILES)}; got {profile!r}{nearest(profile, PROFILES)}"
            )
        Identity(experiment=name, version=version, arm="any", seed=0, params={}, data=data)
        self.name, self.version, self.profile, self.data = name, version, profile, data
        self.revised = dict(revised or {})
        self.runs: Runs | None = None

    def run(
        self,
        measure: Callable[..., Measured],
        *,
        arms: Sequence[str],
        seeds: int,
        **params: Any,
    ) -> Runs:
        """Every arm with seeds 0 ... seeds - 1: replayed where recorded, else computed, one by one.

        Args:
            measure: `measure(arm, seed, **params) -> Measured`, a pure function of its arguments.
            arms: what is compared.
            seeds: independent repetitions.
            params: everything else that results depend on: JSON scalars and lists of them
                (a tuple reaches `measure` as a list).

        Raises:
            ValueError: no arm, an arm twice, no seed, or a parameter that cannot be recorded.
            MissingRecord: the session asked for recorded runs only, and one has no record.
            DamagedRecord: a published record is damaged (an own one is computed again).
            RunFinished: the session asked for one run alone, and it is recorded now.
        """
        arms = list(arms)
        if not arms or len(set(arms)) < len(arms) or seeds < 1:
            raise ValueError(
                f"expected different arms and at least one seed; got {arms} and seeds={seeds}"
            )
        now = session()
        if now.only is not None:
            arm, seed = now.only
            if arm not in arms:
                raise ValueError(f"arm is one of {arms}; got {arm!r}{nearest(arm, arms)}")
            identity = self._identity(arm, seed, params)
            self._record(measure, identity, now, f"{arm}, seed {seed}")
            raise RunFinished(now.records("own", self.name) / identity.file_name)
        wanted = [(arm, seed) for arm in arms for seed in range(seeds)]
        records: dict[str, list[Record]] = {arm: [] for arm in arms}
        for i, (arm, seed) in enumerate(wanted, start=1):
            label = f"{arm}, seed {seed} ({i} of {len(wanted)})"
            identity = self._identity(arm, seed, params)
            records[arm].append(self._record(measure, identity, now, label))
        self.runs = Runs(records)
        return self.runs

    def figure(self, fig: Figure, name: str, numbers: pd.DataFrame, alt: str) -> None:
        """Save `fig` with its numbers and passport in this profile's folder, and show it.

        Args:
            name: the file name without its ending.
            numbers: what is drawn, as a table; written beside the picture.
            alt: tells a reader who cannot see it what the picture shows.
        """
        from matchbook.lab import figures

        folder = self._folder()
        figures.save_figure(
            fig,
            folder,
            name,
            numbers=numbers,
            alt=alt,
            records=self._runs().records,
            smoke=self.profile == "smoke",
            notebook=self.name,
            profile=self.profile,
        )
        _show_picture(fig, folder / f"{name}.png", alt)

    def report(self, numbers: Mapping[str, Any]) -> None:
        """Write the numbers that claims are decided on, and show them as a table."""
        from matchbook.lab.numbers import write_numbers

        table = write_numbers(self._folder(), numbers, records=self._runs().records)
        if _in_notebook():
            from IPython.display import display

            display(table)

    def _identity(self, arm: str, seed: int, params: Mapping[str, Any]) -> Identity:
        return Identity(
            experiment=self.name,
            version=next((v for p, v in self.revised.items() if fnmatchcase(arm, p)), self.version),
            arm=arm,
            seed=seed,
            params=params,
            data=self.data,
        )

    def _folder(self) -> Path:
        return session().figures / self.profile / self.name

    def _runs(self) -> Runs:
        if self.runs is None:
            raise ValueError(
                "pictures and numbers are made from records: call run() first (a notebook of pure "
                "mathematics runs arms=['exact'] with seeds=1)"
            )
        return self.runs

    def _record(
        self, measure: Callable[..., Measured], identity: Identity, now: Session, label: str
    ) -> Record:
        """The record of one run, found or made; where one run alone was asked for, it is ours."""
        own = now.records("own", self.name)
        if found := _find(identity, now):
            if now.only is not None and not (own / identity.file_name).exists():
                write_record(found, own)
            return found
        if now.recorded:
            raise MissingRecord(
                f"no record of {label} of {self.name} at {self.profile} ({identity.file_name}) "
                f"among the {', '.join(now.replay) or 'no'} ones; to make and publish it: "
                f"matchbook publish {self.name} --profile {self.profile}"
            )
        from matchbook.lab.running import Running

        lock = now.runs / "locks" / f"{identity.key}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if found := _find(identity, now):  # made by another process while we waited
                return found
            print(f"{self.name}: {label}", file=sys.stderr, flush=True)
            with Running(identity, now, profile=self.profile, label=label) as running:
                measured = measure(identity.arm, identity.seed, **identity.params)
                if not isinstance(measured, Measured):
                    raise TypeError(f"measure returns lab.Measured; got {type(measured).__name__}")
                record = Record(
                    **vars(identity),
                    numbers=measured.numbers,
                    curves=measured.curves,
                    passport={**running.passport(), "data": measured.data or identity.data},
                )
                path = write_record(record, own)
                running.clean()
        return read_record(path)


def _find(identity: Identity, now: Session) -> Record | None:
    """The recorded run, own or published as the session says; None where it must be computed."""
    for source in () if now.fresh else now.replay:
        path = now.records(source, identity.experiment) / identity.file_name
        if not path.exists():
            continue
        try:
            return read_record(path)
        except DamagedRecord as damage:
            if source == "published":
                raise
            print(f"{damage}: computed again", file=sys.stderr, flush=True)
    return None


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def _show_picture(fig: Figure, path: Path, alt: str) -> None:
    """Display the saved file rather than the figure, so that what is seen is what is kept."""
    from matplotlib import pyplot

    pyplot.close(fig)  # or Jupyter would draw it a second time
    if not _in_notebook():
        return
    from base64 import b64encode

    from IPython.display import display

    width = round(float(fig.get_size_inches()[0]) * 96)  # CSS pixels, whatever the file's dpi
    display(
        {"image/png": b64encode(path.read_bytes()).decode(), "text/plain": alt},
        raw=True,
        metadata={"image/png": {"alt": alt, "width": width}},
    )
