"""The results so far, a line of JSON for each peer of each round, so that an interrupted run goes on where it was."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Journal"]


class Journal:
    """A file whose first line says what is measured; results of something else are put aside.

    Attributes:
        head: versions, machine, settings.
    """

    def __init__(self, file: Path, head: Mapping[str, Any], *, fresh: bool = False) -> None:
        self._file, self.head = file, dict(head)
        self._done: dict[tuple[int, str], dict[str, Any]] = {}
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        if lines and not fresh and self._load(lines):
            return
        if lines:
            file.replace(file.with_suffix(".before.jsonl"))
        self._done.clear()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self.head) + "\n", "utf-8")

    def has(self, number: int, peer: str) -> bool:
        """Return whether a peer was measured in a round; what failed is tried again."""
        return "error" not in self._done.get((number, peer), {"error": ""})

    def add(self, number: int, peer: str, result: Mapping[str, Any]) -> None:
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"round": number, "peer": peer, "result": result}) + "\n")
        self._done[number, peer] = dict(result)

    def results(self, peer: str) -> list[dict[str, Any]]:
        """Return a peer's results by round; none for a peer that has not been measured at all."""
        if not any(name == peer for _, name in self._done):
            return []
        rounds = 1 + max(number for number, _ in self._done)
        missing = {"error": "not measured in this round"}
        return [self._done.get((number, peer), missing) for number in range(rounds)]

    def _load(self, lines: list[str]) -> bool:
        with suppress(json.JSONDecodeError, KeyError):
            if json.loads(lines[0]) != self.head:
                return False
            for line in lines[1:]:
                entry = json.loads(line)  # the last one may be cut
                self._done[entry["round"], entry["peer"]] = entry["result"]
            return True
        # Keep the whole lines only, so that the next one does not follow a torn one.
        whole = [{"round": number, "peer": peer, "result": result} for (number, peer), result in self._done.items()]
        self._file.write_text("".join(json.dumps(line) + "\n" for line in (self.head, *whole)), "utf-8")
        return bool(self._done)
