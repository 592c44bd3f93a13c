"""One line of the table that `make bench` prints, and the clocks that fill it."""

from dataclasses import dataclass

from matchbook.lab.timing import matmul_flops_per_second, read_bytes_per_second, seconds

__all__ = ["Row", "matmul_flops_per_second", "read_bytes_per_second", "seconds"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: both rates are in `unit`; a bar is on their ratio."""

    work: str
    unit: str
    ours: float
    reference: float
    against: str
    bar: float | None = None

    @property
    def ratio(self) -> float:
        return self.ours / self.reference

    def __str__(self) -> str:
        bar = "" if self.bar is None else f"bar {self.bar:.2f}: {self.verdict}"
        rates = f"{self.ours:12,.1f} {self.reference:12,.1f} {self.unit:<14}"
        return f"{self.work:<34} {rates} {self.ratio:6.2f} x {self.against:<34} {bar}"

    @property
    def verdict(self) -> str:
        return "met" if self.bar is not None and self.ratio >= self.bar else "not met"
