"""The server's settings in a TOML file, and what --print-config says of them."""

import tomllib
from pathlib import Path

import grpc
import pytest

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from server.__main__ import main
from server.settings import ServerSettings
from tests.conftest import ready, start_server, stop


def ended(*argv: str) -> int | str | None:
    """The exit code of `charstream serve`, which comes before anything is served."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    return caught.value.code


def test_a_server_is_configured_by_what_print_config_printed(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, copy = tmp_path / "server.toml", tmp_path / "copy.toml"
    file.write_text('max-chars = 5\ndefault-chars = 4\nprecision = "fp32"\nlog_calls = false\n')
    assert ended("--print-config", "--config", str(file)) == 0
    copy.write_text(capsys.readouterr().out)
    process = start_server(bundles, "--config", str(copy), "--default-chars", "3")
    try:
        with grpc.insecure_channel(ready(process).address) as channel:
            stub = rpc.TextGenerationStub(channel)
            assert len("".join(message.text for message in stub.Generate(pb.GenerateRequest()))) == 3
            with pytest.raises(grpc.RpcError, match=r"max_chars: .*5") as caught:
                list(stub.Generate(pb.GenerateRequest(max_chars=6)))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "charstream.calls" not in process.log
    finally:
        stop(process)


def test_every_setting_is_printed_with_its_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "server.toml"
    file.write_text("max-rows = 64")
    monkeypatch.setenv("CHARSTREAM_GRACE", "5")
    assert ended("--print-config", "--config", str(file), "--port", "0", "--models", "x") == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert [line.removeprefix("# ").split(" = ")[0].split(" =  ")[0] for line in lines] == [
        name for name in ServerSettings.model_fields if name != "print_config"
    ]
    assert {f"max_rows = 64  # file {file}", "grace = 5.0  # CHARSTREAM_GRACE", "port = 0  # flag"} <= set(lines)
    assert "# tls_key =  # default" in lines
    values = tomllib.loads(text)
    expected = ServerSettings(engines="0", max_rows=64, grace=5, port=0, models=Path("x"))
    assert ServerSettings.model_validate(values) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("max_row = 64", "'max_row' is no setting; the nearest is max_rows"),
        ("max_rows = 0", "max_rows: input should be greater than or equal to 1 (got 0)"),
        ("max_rows 64", "Expected '=' after a key in a key/value pair (at line 1, column 10)"),
    ],
)
def test_a_wrong_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, complaint: str
) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    assert ended("--config", str(file)) == 2
    assert capsys.readouterr().err == f"charstream serve: {file}: {complaint}\n"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--provider cuda --precision int8", "--provider cuda runs fp16-cuda and fp32-cuda, not --precision int8"),
        ("--provider cpu --tf32", "--tf32 is for --precision fp16-cuda and fp32-cuda, which run with --provider cuda"),
        ("--precision fp32 --max-rows 8 --buckets 4,8", "--buckets is for --precision fp16-cuda and fp32-cuda"),
        ("--buckets 64,256", "the largest must be --max-rows, 1024: got 64,256"),
        ("--buckets 0,1024", "--buckets are numbers of rows from 1"),
        ("--max-rows 8 --buckets 4,8 --engines 2", "--buckets are for one engine, which has all of --max-rows: got"),
        ("--engines -1", "--engines: is '-1', allowed are values like auto, 0, 2, 16"),
        ("--engines 999", "--engines 999: this process may use"),
        ("--buckets 64+1024", "--buckets: is '64+1024', allowed are values like 1024, 1,64,1024"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(
    capsys: pytest.CaptureFixture[str], flags: str, complaint: str
) -> None:
    assert ended(*flags.split()) == 2
    message = capsys.readouterr().err
    assert complaint in message
    assert message.count("\n") == 1
