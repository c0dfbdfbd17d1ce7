"""Command-line parameters made from an options class, so that no option is written twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from headrace.config import Declared, declared

_TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "str | None": str | None,
    "int | None": int | None,
    "tuple[str, ...]": list[str],
}


def command_of(options: type[Any], run: Callable[[Any], None], *, positional: str) -> Callable[..., None]:
    """A function typer can make a command of: its parameters are the options of `options`.

    What is written without a flag goes to the option `positional`, together with what is written with its flag. What
    the environment says of it counts only where nothing is written.
    """

    def command(context: typer.Context, **given: Any) -> None:
        words = tuple(given.pop("words") or ())
        source = context.get_parameter_source(positional)
        flagged = () if words and source is not None and source.name == "ENVIRONMENT" else given[positional] or ()
        given[positional] = (*words, *flagged)
        run(options(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}))

    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        inspect.Parameter(
            "words",
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None,
            annotation=Annotated[
                list[str] | None, typer.Argument(metavar="[NAME=]SOURCE", help=_help(options, positional))
            ],
        ),
    ]
    parameters += [_parameter(one) for one in declared(options)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _parameter(one: Declared) -> inspect.Parameter:
    kind = _TYPES[one.type]
    default = list(one.default) if isinstance(one.default, tuple) else one.default
    help_text = f"{one.meaning[:1].upper()}{one.meaning[1:]}. {one.bounds}".strip()
    given = typer.Option(one.flag, envvar=one.variable, help=help_text, show_envvar=False)
    return inspect.Parameter(
        one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, given]
    )


def _help(options: type[Any], name: str) -> str:
    return next(one.meaning for one in declared(options) if one.name == name)
