"""How often something took place, and how long it took."""

from dataclasses import dataclass

__all__ = ["RunTotals", "Total"]


@dataclass
class Total:
    """How often, and for how long together."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds


class RunTotals:
    """The runs of engines, by model and by their number of rows. Each engine adds to its own."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], dict[int, Total]] = {}

    def of(self, name: str, version: str) -> dict[int, Total]:
        """Return the totals of a model's runs by their number of rows."""
        return self._models.setdefault((name, version), {})
