"""The server's configuration: flags of `charstream serve`, or CHARSTREAM_* variables."""

import math
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from bundle.manifest import ON_DEVICE
from bundle.pretrained import FOLDER
from charstream.settings import Settings
from server.limits import BURST_SECONDS, LENT_CHARS, LONGEST_STOP

__all__ = ["ServerSettings"]

MOST_PORT = 65535


class ServerSettings(Settings):
    """Streams characters from bundles over gRPC. The first SIGINT or SIGTERM drains, the second ends it at once."""

    stray_word: ClassVar = "models are --models FOLDER, those that come with charstream --pretrained"

    models: Path = Field(Path("bundles"), description="a folder of bundles, or one bundle")
    pretrained: bool = Field(
        False, description="serve the models that come with charstream, instead of those of --models"
    )
    default: str = Field(
        "",
        description="name of the model for requests that name none; without it that of the newest bundle (the time of "
        "its manifest.json)",
    )
    config: Path | None = Field(None, description="TOML file with settings by name (max_rows = 64)")
    print_config: bool = Field(False, description="print every setting and where it comes from, and end")
    host: str = Field("127.0.0.1", description="address to listen on; one that others can reach needs TLS")
    port: int = Field(50051, ge=0, le=65535, description="TCP port; 0 takes any free one")
    insecure: bool = Field(False, description="listen without TLS where others can reach it")
    tls_cert: Path | None = Field(
        None, description="PEM file with the server's certificate chain; read when it changes"
    )
    tls_key: Path | None = Field(None, description="PEM file with its private key")
    tls_client_ca: Path | None = Field(
        None,
        description="PEM file with the authorities that clients' certificates must come from; without it no "
        "certificate is asked for",
    )
    tokens: Path | None = Field(
        None,
        description="file with who may call: a line `NAME SHA256` each (charstream token NAME makes one); read "
        "when it changes. Without it everybody may",
    )
    load: Literal["start", "lazy"] = Field(
        "start", description="load models at the start, or each when it is asked for"
    )
    model_memory: float = Field(
        0, ge=0, description="megabytes that loaded models may take; the least used one goes first. 0 is no limit"
    )
    admin: bool = Field(
        False, description="callers may load and unload models (RepositoryModelLoad, RepositoryModelUnload)"
    )
    watch: float = Field(
        10, ge=0, le=86_400, description="seconds between two looks for new and gone bundles; 0 looks only after SIGHUP"
    )
    provider: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where graphs run; auto takes CUDA where it loads and the bundle has graphs for it"
    )
    precision: Literal["auto", "fp32", "int8", "fp32-cuda", "fp16-cuda"] = Field(
        "auto",
        description="arithmetic of the matmuls; auto takes on CUDA fp16-cuda before fp32-cuda, on a CPU int8 before "
        "fp32, as the bundle has them",
    )
    engines: str = Field(
        "auto",
        pattern=r"^(auto|[0-9]{1,3})$",
        examples=["auto", "0", "2", "16"],
        description="processes that run each model and share its texts; auto takes one for each core that may be used "
        "(beyond two cores, one is left for the network), at most 8, and a single one on CUDA. 0 runs models in the "
        "server's own process",
    )
    threads: int = Field(
        0, ge=0, le=256, description="threads of one operator on a CPU; 0 measures at start how many are worth it"
    )
    buckets: str = Field(
        "",
        pattern=r"^([0-9]{1,5}(,[0-9]{1,5})*)?$",
        examples=["1024", "1,64,1024"],
        description="on CUDA, numbers of rows that a run may have, with commas, --max-rows among them; by default a "
        "run always has --max-rows. With several a text may depend on how many run beside it",
    )
    tf32: bool = Field(False, description="on CUDA, matmuls of fp32-cuda may round what they multiply to 10 bits")
    max_rows: int = Field(1024, ge=1, le=65536, description="texts that run at a time, per model")
    max_batch: int = Field(256, ge=1, le=4096, description="texts of one run on a CPU; beyond it groups take turns")
    max_waiting: int = Field(1024, ge=0, le=1 << 20, description="texts that may wait for a row, per model")
    chunk_delay: float = Field(20, ge=1, le=10_000, description="milliseconds that a generated character may wait")
    prefix_cache: float = Field(
        64, ge=0, le=1 << 20, description="megabytes for the states after prompts, which repeated prompts start from"
    )
    sequence_memory: float = Field(
        64,
        ge=0,
        le=1 << 20,
        description="megabytes, per model, for the states of sequences that callers of NAME.step have kept here "
        "(docs/triton.md): 100,000 of an LSTM 2x512 are 820. They are taken as sequences come",
    )
    sequence_idle: float = Field(
        600, gt=0, le=1e9, description="seconds without a step after which a sequence is forgotten"
    )
    replicas: tuple[str, ...] = Field(
        (),
        description="HOST:PORT of a server of the same models, several times, or of a name with all their addresses; "
        "this one may be among them. Sequences are taken from them and, at a drain, handed over. Needs --resume-keys",
    )
    replicas_ca: Path | None = Field(
        None,
        description="PEM file with the authorities of the replicas' certificates, which are made for HOST; without it "
        "the system's",
    )
    max_wait: float = Field(60, gt=0, le=86_400, description="seconds that a text may wait for a row")
    stream_buffer: int = Field(
        4096, ge=256, le=1 << 24, description="characters a stream may hold before its row pauses for a slow reader"
    )
    max_prompt_chars: int = Field(
        100_000,
        ge=0,
        le=10_000_000,
        description="characters that a prompt, a text to score or what was received may have",
    )
    max_chars: int = Field(1_000_000, ge=1, le=2**32 - 1, description="characters a request may ask for")
    default_chars: int = Field(256, ge=1, le=2**32 - 1, description="characters generated if a request does not say")
    max_stops: int = Field(16, ge=0, le=1024, description="stop strings a request may have")
    max_stop_chars: int = Field(128, ge=1, le=LONGEST_STOP, description="characters a stop string may have")
    max_continuations: int = Field(16, ge=1, le=1024, description="continuations (n) a request may ask for")
    max_token_bytes: int = Field(1 << 20, ge=1024, le=1 << 26, description="size of a resume token")
    resume_keys: Path | None = Field(
        None,
        description="file with the keys of resume tokens, a line of at least 32 characters each; the first signs, all "
        "are accepted. Without it a key is made that ends with this process",
    )
    max_seconds: float = Field(
        3600, gt=0, le=86_400, description="seconds that a call may last; its text can go on in another one"
    )
    default_seconds: float = Field(
        0, ge=0, le=86_400, description="seconds after which a text ends whose request has no time_limit; 0 is no limit"
    )
    reader_timeout: float = Field(
        60, gt=0, le=86_400, description="seconds that a text waits for a reader who takes nothing; then its call fails"
    )
    identity_streams: int = Field(
        0, ge=0, description="texts that one identity may have running and waiting; 0 is no limit"
    )
    identity_chars: float = Field(
        0, ge=0, description="characters a second that one identity's texts get together; 0 is no limit"
    )
    max_connections: int = Field(4096, ge=1, le=1 << 20, description="connections")
    connection_streams: int = Field(1024, ge=1, le=1 << 20, description="calls that one connection may have open")
    connection_cancels: float = Field(
        0,
        ge=0,
        description="calls a second that one connection, or over HTTP one address, may give up before their end. "
        "0 is no limit",
    )
    connection_idle: float = Field(
        600, ge=1, le=86_400, description="seconds without a call after which a connection is closed"
    )
    handshake_timeout: float = Field(10, ge=1, le=600, description="seconds in which a connection must be made")
    max_header_bytes: int = Field(16_384, ge=1024, le=1 << 20, description="size of a call's headers")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port of /metrics, /healthz and /readyz over HTTP; none without it"
    )
    metrics_host: str = Field("127.0.0.1", description="address that the metrics port listens on")
    http_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port that serves the same over HTTP (/v1/completions as OpenAI's, ...); none without it",
    )
    http_origins: tuple[str, ...] = Field(
        (), description="an origin whose web pages may call the HTTP port, as https://example.org; * for any"
    )
    playground: bool = Field(
        True, description="the HTTP port shows a page at / to try the models with, which calls it as others do"
    )
    traces: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        examples=["http://host:4317"],
        description="OTLP/gRPC collector (http://host:4317) that gets a trace of each call; needs charstream[traces]",
    )
    log_format: Literal["console", "json"] = Field("console", description="log lines for people, or JSON objects")
    log_calls: bool = Field(True, description="a line in the log for each call")
    log_texts: bool = Field(False, description="prompts and texts in these lines")
    drain_delay: float = Field(
        0, ge=0, le=600, description="seconds between saying NOT_SERVING and refusing calls, when the server drains"
    )
    grace: float = Field(30, ge=0, le=86_400, description="seconds that running streams get when the server drains")
    keepalive: float = Field(30, ge=1, le=7200, description="seconds of silence after which a connection is probed")
    keepalive_timeout: float = Field(10, ge=1, le=600, description="seconds in which the probe must be answered")

    @model_validator(mode="after")
    def _tls_is_whole(self) -> "ServerSettings":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key belong together: give both, or neither")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("--tls-client-ca: certificates of clients need TLS: give --tls-cert and --tls-key as well")
        return self

    @model_validator(mode="after")
    def _replicas_can_be_asked(self) -> "ServerSettings":
        for place in self.replicas:
            host, _, port = place.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) <= MOST_PORT:
                raise ValueError(f"--replicas {place}: HOST:PORT is expected, as charstream:50051")
        if self.replicas and not self.resume_keys:
            raise ValueError("--replicas need the same --resume-keys on each: by them they know each other")
        if self.replicas_ca and not (self.replicas and self.tls_cert):
            raise ValueError("--replicas-ca is for TLS: give --replicas, --tls-cert and --tls-key as well")
        return self

    @model_validator(mode="after")
    def _arithmetic_has_a_place(self) -> "ServerSettings":
        on_device, names = self.precision in ON_DEVICE, " and ".join(sorted(ON_DEVICE))
        if self.provider == "cuda" and not on_device and self.precision != "auto":
            raise ValueError(f"--provider cuda runs {names}, not --precision {self.precision}")
        given = [flag for flag, value in (("--buckets", self.buckets), ("--tf32", self.tf32)) if value]
        if given and not on_device and (self.provider == "cpu" or self.precision != "auto"):
            raise ValueError(f"{given[0]} is for --precision {names}, which run with --provider cuda")
        return self

    @model_validator(mode="after")
    def _buckets_hold_all_rows(self) -> "ServerSettings":
        sizes = self.bucket_sizes
        if sizes[0] < 1 or sizes[-1] != self.max_rows:
            raise ValueError(
                f"--buckets are numbers of rows from 1, and the largest must be --max-rows, {self.max_rows}: "
                f"got {self.buckets}"
            )
        if self.buckets and self.engines not in ("auto", "0", "1"):
            raise ValueError(f"--buckets are for one engine, which has all of --max-rows: got --engines {self.engines}")
        return self

    @model_validator(mode="after")
    def _stop_strings_fit(self) -> "ServerSettings":
        # Text that may begin a stop string is held back, and nobody reads it; a reader gives credit back in quarters.
        if 2 * self.max_stop_chars > self.stream_buffer:
            raise ValueError("--max-stop-chars must be at most half of --stream-buffer")
        return self

    @model_validator(mode="after")
    def _characters_can_be_earned(self) -> "ServerSettings":
        needed = self.max_continuations * LENT_CHARS / (BURST_SECONDS + self.max_wait)
        if 0 < self.identity_chars < needed:
            raise ValueError(
                f"--identity-chars must be at least {math.ceil(needed)} with these --max-continuations and --max-wait, "
                f"or 0: {LENT_CHARS} characters are lent to each text, and would not be earned in time"
            )
        return self

    @property
    def folder(self) -> Path:
        """The folder whose bundles are served, or one bundle."""
        return FOLDER if self.pretrained else self.models

    @property
    def folder_flag(self) -> str:
        """The flag that says so, for errors."""
        return "--pretrained" if self.pretrained else f"--models {self.models}"

    @property
    def most_texts(self) -> int:
        """Texts of one model that may be open, running and waiting."""
        return self.max_rows + self.max_waiting

    @property
    def most_continuations(self) -> int:
        """Continuations of one request that other limits leave possible."""
        return min(self.max_continuations, self.most_texts, self.identity_streams or self.max_continuations)

    @property
    def bucket_sizes(self) -> tuple[int, ...]:
        """Numbers of rows that a run on a device may have, ascending."""
        return tuple(sorted({int(size) for size in self.buckets.split(",")})) if self.buckets else (self.max_rows,)

    @property
    def prefix_bytes(self) -> int:
        return int(self.prefix_cache * 1e6)

    @property
    def sequence_bytes(self) -> int:
        return int(self.sequence_memory * 1e6)

    @property
    def chunk_seconds(self) -> float:
        return self.chunk_delay / 1000
