"""The command `charstream`: find the part that does the work, import that part alone, and hand over to it."""

import gc
import importlib
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from charstream.parts import prefer_own_parts

# command -> (module with `main(argv) -> int`, one line of help, the extra that brings what it imports)
COMMANDS = {
    "data": ("models.data.command", "fetch and check a text to train on", "train"),
    "advise": ("models.advice.command", "say what to train on a text, for how long, and what to expect", "train"),
    "train": ("models.train", "train a character-level model", "train"),
    "import": ("models.runs.import_model", "bring in a model that was trained elsewhere", "train"),
    "export": ("export.__main__", "turn a training run into a bundle of ONNX files", "train"),
    "verify": ("export.verify", "check a bundle's ONNX files against torch", "train"),
    "check": ("models.check.command", "check a configuration, or a training run, and say what to do", "train"),
    "evaluate": ("export.evaluate", "tell what a training run or a bundle loses on a text", "train"),
    "plot": ("models.reporting.plot", "draw the loss curves of one run or several", "train"),
    "report": ("models.reporting.report", "write a page that tells all of a run", "train"),
    "search": ("models.experiments.search", "look for the best settings of training", "train,search"),
    "compare": ("models.experiments.compare", "train variants under equal conditions, and table them", "train"),
    "serve": ("server.__main__", "stream characters from bundles over gRPC", "cpu or gpu"),
    "pretrained": ("bundle.pretrained", "list the models that come with charstream, or copy one", ""),
    "token": ("server.access.token_command", "make a token for a caller", ""),
    "stream": ("client.commands.stream", "stream a text from a server into the terminal", ""),
    "score": ("client.commands.score", "tell how probable a text is to a model", ""),
    "models": ("client.commands.models", "list the models of a server", ""),
    "fleet": ("client.commands.fleet", "tell what several servers serve, and who differs", ""),
    "loadtest": ("loadtest.__main__", "measure a server's latency and throughput with Locust", "loadtest"),
    "demo": (
        "charstream.demo",
        "all of it in a few minutes: data, train, export, verify, serve, stream, loadtest",
        "train,loadtest",
    ),
    "completion": ("charstream.completion", "print a script by which your shell completes commands and flags", ""),
}


def usage() -> str:
    lines = [f"  {name:12}{text}" for name, (_, text, _) in COMMANDS.items()]
    head = ["usage: charstream COMMAND [--help] ...", "       charstream --version", "", "commands:"]
    return "\n".join([*head, *lines])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Return its exit code: 0 done, 1 failed, 2 wrong usage, 130 after Ctrl-C."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    _prepare_output()
    try:
        try:
            return _run(name, rest)
        finally:
            if sys.stdout:
                sys.stdout.flush()  # raises here, and not when Python ends, if it cannot be written
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except OSError as error:
        _forget_stdout()
        where = f"{error.filename}: " if error.filename else ""
        print(f"charstream {name}: {where}{error.strerror or error}", file=sys.stderr)
        return 1


def _run(name: str, rest: Sequence[str]) -> int:
    if name == "help" and rest:
        name, rest = rest[0], ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name in ("--version", "-V"):
        print(importlib.import_module("charstream.versions").describe_installation())
        return 0
    if name not in COMMANDS:
        near = importlib.import_module("charstream.settings_sources").nearest(name, [*COMMANDS, "--help", "--version"])
        there = "--help lists the commands" if name.startswith("-") else f"there are {', '.join(COMMANDS)}"
        print(f"charstream: no command {name!r}{near}; {there}", file=sys.stderr)
        return 2
    module, _, extra = COMMANDS[name]
    if module.startswith("client."):
        # Errors are one line: gRPC's own log would come before it. It reads this variable when it is imported.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    prefer_own_parts()
    try:
        part = _import_part(module)
    except ModuleNotFoundError as error:
        if not extra or error.name is None or error.name.split(".")[0] == module.split(".")[0]:
            raise
        print(
            f"charstream {name}: needs {error.name}, which the extra brings: pip install 'charstream[{extra}]'",
            file=sys.stderr,
        )
        return 2
    return int(part.main(rest))


def _import_part(module: str) -> ModuleType:
    """Import a part without looking for garbage meanwhile or, later, in what it brought: with torch a fifth faster."""
    if module in sys.modules or not gc.isenabled():
        return importlib.import_module(module)
    gc.disable()
    try:
        part = importlib.import_module(module)
        gc.freeze()
    finally:
        gc.enable()
    return part


def _prepare_output() -> None:
    """Escape what the terminal's encoding lacks, and write to nowhere where stdout or stderr is closed (`>&-`)."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _forget_stdout() -> None:
    """Close stdout, which nobody reads any more or which is full: Python must not write to it again when it ends."""
    if sys.stdout:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
