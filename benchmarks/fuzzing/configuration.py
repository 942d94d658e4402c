"""The surface of a server's configuration: a TOML file, flags and variables."""

import io
import os
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from unittest.mock import patch

from benchmarks.fuzzing.mutations import FLOATS, INTEGERS, TEXTS, change_bytes, change_text
from benchmarks.fuzzing.surface import Fault, Surface
from charstream.settings import parse
from server.settings import ServerSettings

__all__ = ["configuration_surface"]

PREFIX = "CHARSTREAM_"
# The separator of file, flags and variables: no command line and no variable has it.
BETWEEN = b"\0"
SEEDS = (
    b'host = "127.0.0.1"\nport = 0\nmax-rows = 64\ngrace = 1.5\nlog_texts = true\nmodels = "bundles"\n',
    b"max_rows = 1\n\0--max-rows\0002\0--no-log-calls\0--chunk-delay\0001e3\0CHARSTREAM_PORT=1\0CHARSTREAM_GRACE=inf",
    b"\0--precision\0fp32\0--metrics-port\x008080\0CHARSTREAM_PROVIDER=cpu\0CHARSTREAM_LOG_TEXTS=yes",
)


def configuration_surface(folder: Path) -> Surface:
    """Return the surface. The folder is for its files, and its name must stay."""
    return Surface("configuration", SEEDS, Configurations(folder / "settings.toml").take, _change)


class Configurations:
    def __init__(self, file: Path) -> None:
        self._file = file

    def take(self, data: bytes) -> str:
        """Parse the settings: they must be refused in one line, or come out as they went in."""
        toml, *others = data.split(BETWEEN)
        texts = [os.fsdecode(other) for other in others]
        flags = [text for text in texts if not text.startswith(PREFIX)]
        self._file.write_bytes(toml)
        variables = dict(text.split("=", 1) for text in texts if text.startswith(PREFIX) and "=" in text)
        with patch.dict(os.environ, variables):
            settings, printed = _parse(["--config", str(self._file), *flags])
            if settings is None:
                return "printed" if printed else "refused"
            printed = _parse(["--config", str(self._file), *flags, "--print-config"])[1]
        if not all(map(_is_utf_8, others)):
            return "OK"  # no TOML file can say that
        self._file.write_text(printed)
        if _parse(["--config", str(self._file)])[0] != settings.model_copy(update={"config": self._file}):
            raise Fault(f"--print-config prints another configuration:\n{printed}")
        return "OK"


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parse(argv: Sequence[str]) -> tuple[ServerSettings | None, str]:
    """Return the settings, or what is printed instead; neither if they are refused."""
    out, errors = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            return parse(ServerSettings, argv, command="charstream serve", environment=PREFIX), ""
    except SystemExit as ended:
        if ended.code == 0:
            return None, out.getvalue()
        if ended.code != 2 or errors.getvalue().count("\n") != 1:
            raise Fault(f"exit code {ended.code}, not one line: {errors.getvalue()!r}") from None
        return None, ""


def _change(data: bytes, rng: Random) -> bytes:
    """Change bytes, or add a setting in one of the three places."""
    if rng.random() < 0.4:
        return change_bytes(data, rng)
    name, value = rng.choice(list(ServerSettings.model_fields)), _value(rng)
    flag = f"--{name.replace('_', '-')}"
    line = f"{name} = {value}\n".encode(errors="surrogateescape")
    end = BETWEEN + os.fsencode(f"{flag}{rng.choice(('=', BETWEEN.decode()))}{value}")
    variable = BETWEEN + os.fsencode(f"{PREFIX}{name.upper()}={value}")
    return rng.choice((line + data, data + end, data + variable))


def _value(rng: Random) -> str:
    more = ("[1, 2]", "{a = 1}", "true", "1979-05-27")
    values = (*map(str, INTEGERS), *map(str, FLOATS), *map(repr, TEXTS), *TEXTS, *more)
    return change_text(rng.choice(values), rng) if rng.random() < 0.2 else rng.choice(values)
