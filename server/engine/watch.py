"""What an engine tells about itself."""

__all__ = ["Watch"]


class Watch:
    """Is told by one engine, from its thread; must not block. This one keeps nothing."""

    def began(self) -> None:
        """The engine's thread begins."""

    def waited(self, seconds: float) -> None:
        """A text got its first slot, or gave up waiting for it."""

    def ran(self, rows: int, steps: int, seconds: float, generated: int, forced: int) -> None:
        """A run of so many rows and steps took `seconds`; so many characters came of it or were read."""

    def holds(self, rows: int, waiting: int, paused: int) -> None:
        """After every tick: texts that have a slot, that never had one, and that lost theirs."""

    def ended(self) -> None:
        """The engine's thread ends."""
