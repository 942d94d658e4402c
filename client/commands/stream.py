"""`charstream stream`: print a text on stdout as its characters come, and a line about it on stderr."""

import sys
from collections.abc import Sequence
from typing import Any

from charstream.settings import parse
from client.commands.common import connect, one_line_errors
from client.commands.files import replace
from client.commands.flags import StreamSettings, generate_options, read_prompt
from client.commands.interactive import Interactive
from client.commands.printing import print_json, print_text, print_texts, print_texts_json
from client.errors import ServerError
from client.http.http_client import HttpClient
from client.sync_client import Client

__all__ = ["StreamSettings", "main"]

COMMAND = "charstream stream"


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code 0; end with 1 if something failed, with 2 if the request is wrong."""
    settings = parse(StreamSettings, argv, command=COMMAND)
    with one_line_errors(COMMAND, settings), _connect(settings) as client:
        if settings.interactive:
            Interactive(client, settings).run()
        elif settings.n > 1:
            _stream_several(client, settings)
        else:
            _stream_one(client, settings)
    return 0


def _connect(settings: StreamSettings) -> Client:
    if not settings.http:
        return connect(settings, hedge_after=settings.hedge_after)
    context: Any = settings.ssl_context()
    return HttpClient(
        settings.host,
        credentials=context,
        token=settings.token(),
        tls_name=settings.tls_name,
        hedge_after=settings.hedge_after,
    )


def _stream_one(client: Client, settings: StreamSettings) -> None:
    prompt, options = read_prompt(settings.prompt), generate_options(settings)
    with client.stream(prompt, timeout=settings.timeout, resume=settings.resume, **options) as stream:
        if settings.json_:
            print_json(stream)
        else:
            print_text(stream, prompt if settings.echo else "")
    if settings.token_out:
        if not stream.finish or not stream.finish.resume_token:
            raise ServerError("the server gave no token")
        replace(settings.token_out, stream.finish.resume_token)


def _stream_several(client: Client, settings: StreamSettings) -> None:
    prompt, options = read_prompt(settings.prompt), generate_options(settings)
    several = client.continuations(prompt, n=settings.n, timeout=settings.timeout, resume=settings.resume, **options)
    with several as stream:
        if settings.json_:
            print_texts_json(stream)
        else:
            print_texts(stream, prompt if settings.echo else "")


if __name__ == "__main__":
    sys.exit(main())
