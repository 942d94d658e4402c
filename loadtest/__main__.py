"""`charstream loadtest`: hand over to the run, or to the answer that the first word names."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Sequence

from charstream.settings import fail, parse
from loadtest.settings import LoadtestSettings

__all__ = ["main"]

COMMAND = "charstream loadtest"
# word -> module with `main(argv) -> int`
ANSWERS = {
    "quick": "loadtest.answers.quick",
    "find": "loadtest.answers.find",
    "sweep": "loadtest.answers.sweep",
    "compare": "loadtest.answers.compare",
    "report": "loadtest.report.command",
    "trace": "loadtest.scenarios.trace",
    "null-server": "loadtest.generator.null_server",
}
LOADS = ("quick", "find", "sweep")  # those that make a load


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 if the limits are kept, else 1; 2 for wrong usage, 130 after Ctrl-C."""
    words = list(sys.argv[1:]) if argv is None else argv
    try:
        if words and words[0] in ANSWERS:
            return _answer(words[0], words[1:])
        settings = parse(LoadtestSettings, _spread(words), command=COMMAND)
        _check_installation(COMMAND)
        return int(importlib.import_module("loadtest.answers.run").run(settings))
    except KeyboardInterrupt:
        return 130


def _answer(word: str, rest: Sequence[str]) -> int:
    if word in LOADS and not {"-h", "--help"} & set(rest):
        _check_installation(f"{COMMAND} {word}")
    return int(importlib.import_module(ANSWERS[word]).main(rest))


def _check_installation(command: str) -> None:
    """End the process with one line if what the extra brings is not installed."""
    for name in ("locust", "hdrh", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            fail(command, f"needs {name}, which the extra brings: pip install 'charstream[loadtest]'")


def _spread(words: Sequence[str]) -> Sequence[str]:
    """Return the words with --require before each of several limits that follow one --require."""
    if "--require" not in words:
        return words
    spread: list[str] = []
    follows = False
    for word in words:
        is_limit = bool(re.fullmatch(r"[\w.-]+\s*[<>]=?.*", word)) and not word.startswith("-")
        spread += ["--require"] if follows and is_limit and spread[-1] != "--require" else []
        spread.append(word)
        follows = word == "--require" or (follows and is_limit)
    return spread


if __name__ == "__main__":
    sys.exit(main())
