"""`headrace`: the command line. Each command is imported when it is run."""

from __future__ import annotations

import json
import re
import sys
from typing import Annotated, Any

import typer

from headrace.cli.archive import archive
from headrace.cli.models import models
from headrace.cli.options import command_of
from headrace.cli.trace import trace
from headrace.errors import InvalidOption, SetupError
from headrace.server.options import ServeOptions
from headrace.version import __version__

app = typer.Typer(
    name="headrace",
    help="Concurrent inference for Python: one engine, in your process or behind a server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _serve(options: ServeOptions) -> None:
    import logging

    from headrace.log import log_to_stderr
    from headrace.server.run import serve

    log_to_stderr(options.log_level, options.log_format)
    try:
        raise typer.Exit(serve(options))
    except SetupError as error:
        if options.log_format != "json":
            raise
        logging.getLogger("headrace").error("%s", error)  # whoever reads the log reads JSON
        raise typer.Exit(_status_of(error)) from error


_serve_command = command_of(ServeOptions, _serve, positional="models")
_serve_command.__doc__ = """Serve models over HTTP until a signal ends it.

    A SOURCE is an ONNX file, an archive, a URL of one, or module:function. Without any, all of the model
    store is served, if there is one (with --compat torchserve or mms nothing of it), else the digits model.
    """
app.command("serve")(_serve_command)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Say what this machine offers inference, and what looks wrong."""
    from rich.console import Console

    from headrace.cli.doctor import collect, render

    report = collect()
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        render(report, Console())


app.command("archive")(archive)
app.command("trace")(trace)
app.add_typer(models, name="models")


def _version(asked: bool) -> None:
    if asked:
        print(f"headrace {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it, and exit.")
    ] = False,
) -> None:
    pass


def _status_of(error: SetupError) -> int:
    return 2 if isinstance(error, InvalidOption) else 1


def main() -> None:
    """The entry point. What keeps a command from starting is one line on stderr and exit status 1 (2: an option)."""
    try:
        result: Any = app(standalone_mode=False)
    except SetupError as error:
        # One line, whatever a model's import or a runtime has put in its message.
        print(f"headrace: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(_status_of(error))
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        show = getattr(error, "show", None)  # the parser's own: a wrong flag, a missing value
        if show is None:
            raise
        flag = getattr(error, "option_name", "")
        if re.fullmatch(r"-\d", flag):  # a number below 0, to the parser
            number = next((each for each in sys.argv if each.startswith(flag)), flag)
            print(f"headrace: {number} is no count: counts are from 0 up", file=sys.stderr)
            sys.exit(2)
        show()
        sys.exit(getattr(error, "exit_code", 2))
    sys.exit(result if isinstance(result, int) else 0)
