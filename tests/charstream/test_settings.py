"""One declaration gives flags, variables, help and one-line errors."""

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
        (["a", "--prot", "1"], ["--prot", "--help"]),
        (["a", "--por", "1"], ["--por"]),
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
