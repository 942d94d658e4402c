"""One declaration gives flags, variables, a file's keys, help and one-line errors."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from charstream.settings import Positional, Settings, parse


class Example(Settings):
    """An example."""

    name: Annotated[str, Positional()] = Field(description="what it is called")
    port: int = Field(50051, ge=0, le=65535, description="TCP port")
    stop: tuple[str, ...] = Field((), description="stop strings")
    limit: float | None = Field(None, gt=0, description="seconds")
    mode: Literal["fast", "slow"] = Field("fast", description="how")
    echo: bool = Field(True, description="print the prompt")
    json_: bool = Field(False, description="print JSON")


class Places(Settings):
    """Several places."""

    file: Annotated[tuple[str, ...], Positional()] = Field(description="what is read")
    host: tuple[str, ...] = Field(default_factory=lambda: ("a", "b"), description="who is asked")


def example(*argv: str) -> Example:
    return parse(Example, argv, command="charstream example", environment="CHARSTREAM_")


def test_flags_of_every_kind() -> None:
    settings = example(
        "a", "--port", "1", "--stop", "x,y", "--stop", "\n", "--limit", "2.5", "--mode", "slow", "--json"
    )
    assert settings == Example(name="a", port=1, stop=("x,y", "\n"), limit=2.5, mode="slow", json_=True)
    assert example("a", "--no-echo").echo is False


def test_flags_override_variables_which_override_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARSTREAM_PORT", "7")
    assert example("a").port == 7
    assert example("a", "--port", "8").port == 8


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["a", "--port", "70000"], ["--port", "65535", "70000"]),
        (["a", "--limit", "nan"], ["--limit", "nan"]),
        (["a", "--limit", "-1"], ["--limit", "greater than 0", "-1"]),
        (["a", "--mode", "quick"], ["--mode", "'fast' or 'slow'", "quick"]),
        (["a", "--prot", "1"], ["--prot 1; the nearest is --port;", "--help"]),
        (["a", "b", "--no-ech=1"], ["b --no-ech=1; the nearest is --no-echo;"]),
        (["a", "--por", "1"], ["--por"]),
        (["a", "--x\ny\x1b[31m"], ["--x\\ny\\x1b[31m"]),
        ([], ["NAME"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    argv: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        example(*argv)
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith("charstream example: ")
    for word in words:
        assert word in line


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CHARSTREAM_PORT", "many")
    with pytest.raises(SystemExit):
        example("a")
    assert "CHARSTREAM_PORT" in capsys.readouterr().err


def test_help_states_defaults_and_variables(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        example("--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "TCP port (default: 50051)" in text
    assert "CHARSTREAM_SOME_FLAG" in text
    assert "--json " in text


def test_a_full_disk_under_stderr_leaves_the_exit_code() -> None:
    script = "from charstream.settings import fail; fail('charstream example', 'too wrong')"
    with open("/dev/full", "wb", buffering=0) as full:
        assert subprocess.run([sys.executable, "-c", script], stderr=full, timeout=60).returncode == 2


@pytest.mark.parametrize(
    ("argv", "files"),
    [
        (["x"], ("x",)),
        (["x", "-", "--host", "a", "y"], ("x", "-", "y")),
        (["--host", "a", "--", "-x"], ("-x",)),
        (["--host", "a", "--", "x", "-y"], ("x", "-y")),
    ],
)
def test_several_may_be_given_by_place_and_flags_between_them(argv: list[str], files: tuple[str, ...]) -> None:
    assert parse(Places, argv, command="charstream places").file == files


def test_at_least_one_is_needed_and_a_default_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, says in [(["--host", "a"], "FILE"), (["--help"], "who is asked (default: a, b)")]:
        with pytest.raises(SystemExit):
            parse(Places, argv, command="charstream places")
        printed = capsys.readouterr()
        assert says in " ".join((printed.out + printed.err).split())


class Filed(Settings):
    """Settings of every kind that a file can have."""

    config: Path | None = Field(None, description="TOML file")
    print_config: bool = Field(False, description="print every setting")
    folder: Path = Field(Path("a"), description="a folder")
    also: tuple[Path, ...] = Field((), description="others")
    port: int = Field(50051, ge=0, le=65535, description="TCP port")
    max_rows: int = Field(1024, ge=1, description="rows")
    seconds: float = Field(60, gt=0, description="seconds")
    limit: float | None = Field(None, gt=0, description="seconds")
    mode: Literal["fast", "slow"] = Field("fast", description="how")
    stop: tuple[str, ...] = Field((), description="stop strings")
    loud: bool = Field(True, description="say much")
    json_: bool = Field(False, description="print JSON")


def parse_filed(*argv: str) -> Filed:
    return parse(Filed, argv, command="charstream filed", environment="CHARSTREAM_")


def parse_text(path: Path, text: str | bytes) -> Filed:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return parse_filed("--config", str(path))


@pytest.mark.parametrize(
    ("argv", "variables", "text", "where"),
    [
        (["--folder", ""], {}, "", "--folder"),
        (["--also", "a", "--also", ""], {}, "", "--also"),
        ([], {"CHARSTREAM_FOLDER": ""}, "", "CHARSTREAM_FOLDER"),
        ([], {"CHARSTREAM_CONFIG": ""}, "", "CHARSTREAM_CONFIG"),
        (["--config", "f.toml"], {}, "folder = ''", "f.toml: folder"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    variables: dict[str, str],
    text: str,
    where: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.toml").write_text(text)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        parse_filed(*argv)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"charstream filed: {where}: is empty, a path is expected\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "server.toml"


def test_a_file_gives_values_of_every_kind(file: Path) -> None:
    text = 'folder = "b"\nmax-rows = 0x40\nseconds = 2\nlimit = 0.5\nmode = "slow"\nloud = false\njson = true\n'
    expected = Filed(
        config=file,
        folder=Path("b"),
        max_rows=64,
        seconds=2,
        limit=0.5,
        mode="slow",
        loud=False,
        json_=True,
        stop=("x,y", "\n"),
    )
    assert parse_text(file, text + 'stop = ["x,y", "\\n"]') == expected


def test_flags_override_variables_which_override_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("port = 1\nmax_rows = 1\nseconds = 1\nstop = ['a', 'b']")
    monkeypatch.setenv("CHARSTREAM_CONFIG", str(file))
    monkeypatch.setenv("CHARSTREAM_PORT", "2")
    monkeypatch.setenv("CHARSTREAM_MAX_ROWS", "2")
    settings = parse_filed("--port", "3", "--stop", "c")
    assert (settings.port, settings.max_rows, settings.seconds, settings.limit) == (3, 2, 1, None)
    assert settings.stop == ("c",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_row = 1", ["'max_row' is no setting", "max_rows"]),
        ("[limits]\nport = 1", ["'limits' is no setting"]),
        ('config = "other.toml"', ["'config' is no setting"]),
        ('"a\\nb" = 1', [r"'a\nb' is no setting"]),
        ("max_rows = 1\nmax-rows = 2", ["max-rows", "twice"]),
        ("port = 70000", [": port: ", "65535", "70000"]),
        ('port = "1"', [": port: ", "valid integer", "'1'"]),
        ("port = 1.5", [": port: ", "1.5"]),
        ("port = true", [": port: ", "True"]),
        ("loud = 1", [": loud: ", "valid boolean"]),
        ("json = 1", [": json: ", "valid boolean"]),
        ("seconds = nan", [": seconds: ", "finite", "nan"]),
        ("folder = 2020-01-01", [": folder: "]),
        ('folder = "\\u0000"', [": folder: ", "NUL"]),
        ("stop = 'a'", [": stop: ", "'a'"]),
        ("stop = ['a', 1]", [": stop[1]: ", "valid string"]),
        ("mode = 'quick'", [": mode: ", "'fast' or 'slow'"]),
        ("port = 1\nmax_rows = ", ["at line 2"]),
        ("port = 1\nport = 2\n", ["at line 2"]),
        (b"port = 1\n# \xff\n", ["not UTF-8", "at line 2"]),
        pytest.param(f"port = {'[' * 5000}", ["too deep"], id="deep"),
        pytest.param(f"port = {'1' * 5000}", ["too long"], id="long"),
        pytest.param(f"port = 0x{'f' * 5000}", ["too long"], id="long hexadecimal"),
    ],
)
def test_what_a_file_must_not_say_is_one_line_that_names_it(
    file: Path, text: str | bytes, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_text(file, text)
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith(f"charstream filed: {file}: ")
    for word in words:
        assert word in line


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, reason in [(tmp_path / "none", "No such file"), (tmp_path, "Is a directory")]:
        with pytest.raises(SystemExit) as ended:
            parse_filed("--config", str(path))
        assert ended.value.code == 2
        line = capsys.readouterr().err
        assert line.startswith(f"charstream filed: {path}: {reason}")
        assert line.count("\n") == 1


def test_a_wrong_flag_is_not_blamed_on_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("port = 1")
    with pytest.raises(SystemExit):
        parse_filed("--config", str(file), "--port", "70000")
    assert "--port: " in capsys.readouterr().err


def print_config(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse_filed("--print-config", *argv)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_print_config_tells_each_value_and_where_it_came_from(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("max-rows = 3\njson = true")
    monkeypatch.setenv("CHARSTREAM_PORT", "2")
    lines = print_config(capsys, "--config", str(file), "--seconds", "1.5").splitlines()
    assert lines == [
        f'# config = "{file}"  # flag',
        'folder = "a"  # default',
        "also = []  # default",
        "port = 2  # CHARSTREAM_PORT",
        f"max_rows = 3  # file {file}",
        "seconds = 1.5  # flag",
        "# limit =  # default",
        'mode = "fast"  # default',
        "stop = []  # default",
        "loud = true  # default",
        f"json = true  # file {file}",
    ]


def test_what_is_printed_can_be_given_back(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = 'ä"\\\n\x7f\x1b\u2028😀 # x'
    argv = ["--folder", odd, "--stop", odd, "--stop", "", "--no-loud", "--limit", "1e-9", "--mode", "slow", "--json"]
    text = print_config(capsys, *argv)
    tomllib.loads(text)
    assert parse_text(file, text).model_dump(exclude={"config"}) == parse_filed(*argv).model_dump(exclude={"config"})
    assert [line.split("  # ")[0] for line in print_config(capsys, "--config", str(file)).splitlines()[1:]] == [
        line.split("  # ")[0] for line in text.splitlines()[1:]
    ]


def test_a_wrong_value_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_filed("--print-config", "--port", "70000")
    assert ended.value.code == 2
    assert capsys.readouterr().out == ""
