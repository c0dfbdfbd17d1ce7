"""`headrace models ...`: the models of a running server, through its management API.

Exit status 0: done; 1: the server refused, or it failed; 2: the command line is wrong; 3: no management API is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.managing import called, change, manager_of, plain_of, print_json

if TYPE_CHECKING:  # what only a run needs is imported by it
    from headrace.client.manage import Manager
    from headrace.client.told import Operation

models = typer.Typer(
    name="models",
    help="List, show, register, scale and unregister the models of a running server.",
    no_args_is_help=True,
    epilog="Exit status 0: done; 1: refused, or it failed; 2: the command line is wrong; 3: no management API there.",
)

Management = Annotated[
    str, typer.Option("--management", "-m", metavar="URL", envvar="HEADRACE_MANAGEMENT", help="The management API.")
]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        envvar="HEADRACE_TOKEN",
        show_envvar=True,
        help="Its `management` key, if it wants one. Others on this machine can read a command line: prefer the "
        "environment.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the model.", show_default=False)]
Version = Annotated[
    str | None, typer.Argument(metavar="[VERSION]", help="Without one, the default version.", show_default=False)
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Until it is done, or no longer than it takes to ask.")]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", help="Wait no longer; it goes on on the server.")]
Drain = Annotated[float, typer.Option(metavar="SECONDS", help="For the requests inside what goes.")]
URL = "http://127.0.0.1:8081"


@models.command("list")
def list_(management: Management = URL, token: Token = None, as_json: Json = False) -> None:
    """Every version of every model: its state, its workers, where it is from."""
    with manager_of(management, token) as manager:
        found = manager.models()
    if as_json:
        print_json([plain_of(each) for each in found])
    else:
        from headrace.cli import showing

        showing.listed(found, manager.url)


@models.command()
def show(
    name: Name, version: Version = None, management: Management = URL, token: Token = None, as_json: Json = False
) -> None:
    """All there is to say of one model: of a version, or of each of them."""
    with manager_of(management, token) as manager:
        found = manager.versions(name) if version is None else [manager.show(name, version)]
    if as_json:
        print_json([plain_of(each) for each in found])
    else:
        from headrace.cli import showing

        for place, each in enumerate(found):
            if place:
                print()
            showing.shown(each)


@models.command()
def register(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="A name in its model store, a path there, or a URL it may fetch.")
    ],
    name: Annotated[str | None, typer.Option(help="What it is called; else as its archive, or its file.")] = None,
    version: Annotated[str | None, typer.Option(help="Its version; else its archive's, or 1.")] = None,
    handler: Annotated[str | None, typer.Option(help="In place of its archive's.")] = None,
    workers: Annotated[int, typer.Option(help="Workers it begins with; 0: it is known, and not loaded.")] = 1,
    max_workers: Annotated[int | None, typer.Option(help="Up to so many, their number follows the load.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows joined into one run; else as the server has it.")] = None,
    max_batch_delay: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="A free worker waits for company, to the millisecond.")
    ] = None,
    response_timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="One run may take.")] = None,
    startup_timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="The load may take.")] = None,
    wait: Wait = True,
    timeout: Timeout = None,
    management: Management = URL,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Register a model, and wait until its workers are ready."""

    def begin(manager: Manager) -> Operation:
        return manager.register(
            url,
            name=name,
            version=version,
            handler=handler,
            workers=workers,
            max_workers=max_workers,
            batch_size=batch_size,
            max_batch_delay=max_batch_delay,
            response_timeout=response_timeout,
            startup_timeout=startup_timeout,
            wait=False,
            timeout=timeout,
        )

    change(f"register {name or url}", begin, management, token, wait=wait, timeout=timeout, as_json=as_json)


@models.command()
def scale(
    name: Name,
    workers: Annotated[int, typer.Argument(metavar="WORKERS", help="So many; 0 parks it.", show_default=False)],
    max_workers: Annotated[
        int | None, typer.Option(metavar="COUNT", help="Up to so many, as the load wants; else as many as at least.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Without one, the default version.")] = None,
    drain_timeout: Drain = 120.0,
    wait: Wait = True,
    timeout: Timeout = None,
    management: Management = URL,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Change how many workers a model has. No request is lost."""

    def begin(manager: Manager) -> Operation:
        return manager.scale(
            name, workers, max_workers=max_workers, version=version, drain_timeout=drain_timeout, wait=False
        )

    change(f"scale {name}", begin, management, token, wait=wait, timeout=timeout, as_json=as_json, version=version)


@models.command()
def settings(
    name: Name,
    version: Version = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows, or requests, joined into one run.")] = None,
    max_batch_delay: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="A free worker waits for company.")
    ] = None,
    queue: Annotated[int | None, typer.Option(help="Requests it may have inside.")] = None,
    response_timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="One run may take.")] = None,
    priority_levels: Annotated[int | None, typer.Option(help="Levels that requests may name; 0: none.")] = None,
    default_priority_level: Annotated[int | None, typer.Option(help="Of requests that name none.")] = None,
    min_workers: Annotated[int | None, typer.Option(help="At least so many.")] = None,
    max_workers: Annotated[int | None, typer.Option(help="At most so many: their number follows the load.")] = None,
    reset: Annotated[
        list[str] | None,
        typer.Option(metavar="SETTING", help="As if never set: queue, priority-levels, default-priority-level."),
    ] = None,
    management: Management = URL,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Change how a model serves, without a pause: all that is named, or nothing."""
    with manager_of(management, token) as manager:
        changed = manager.change(
            name,
            version,
            batch_size=batch_size,
            max_batch_delay=max_batch_delay,
            queue=queue,
            response_timeout=response_timeout,
            priority_levels=priority_levels,
            default_priority_level=default_priority_level,
            min_workers=min_workers,
            max_workers=max_workers,
            reset=[each.replace("-", "_") for each in reset or ()],
        )
    if as_json:
        print_json({setting: {"from": before, "to": after} for setting, (before, after) in changed.items()})
        return
    if not changed:
        print(f"{name}: that is how it was")
    for setting, (before, after) in changed.items():
        was, now = ("not set" if each is None else each for each in (before, after))
        print(f"{name}: {setting} is {now} now, it was {was}")


@models.command("set-default")
def set_default(
    name: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Of the model.", show_default=False)],
    management: Management = URL,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Make a version the one that requests go to which name none."""
    with manager_of(management, token) as manager:
        seen = manager.set_default(name, version)
    if as_json:
        print_json(plain_of(seen))
    else:
        print(f"{seen.name}: {seen.version} is the default version")


@models.command()
def unregister(
    name: Name,
    version: Version = None,
    drain_timeout: Drain = 120.0,
    management: Management = URL,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Let a version go, once the requests inside it have ended."""
    with manager_of(management, token) as manager:
        from headrace.cli import showing

        what = f"unregister {name}" + (f":{version}" if version else "")
        with showing.progress(what) as say:
            say(lambda: "waiting for the requests inside it")
            manager.unregister(name, version, drain_timeout=drain_timeout)
    if as_json:
        print_json({"unregistered": {"name": name, "version": version}})
    else:
        print(f"{name}: {'the default version' if version is None else version} has gone")


@models.command()
def operations(
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One of them, or how its id begins.")] = None,
    wait: Wait = True,
    timeout: Timeout = None,
    management: Management = URL,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """The last changes, the newest first; or, followed to its end, one of them."""
    if id is not None:
        chosen = id
        change(
            f"operation {id:.8}",
            lambda manager: called(manager, chosen),
            management,
            token,
            wait=wait,
            timeout=timeout,
            as_json=as_json,
        )  # fmt: skip
        return
    with manager_of(management, token) as manager:
        found = manager.operations()
    if as_json:
        print_json([plain_of(each) for each in found])
    else:
        from headrace.cli import showing

        showing.changes(found)
