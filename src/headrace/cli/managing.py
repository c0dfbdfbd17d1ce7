"""What the commands that manage a running server share: to reach it, to follow a change, and to end as it ended.

Rule 1: what goes wrong is one line on stderr, and an exit status: 1: the server refused, or it failed; 2: what was
        asked cannot be; 3: no management API is there.
Rule 2: what is waited for is shown while it is waited for; who stops waiting stops nothing on the server.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from headrace.errors import HeadraceError, InvalidOption, NoAnswer, Unreachable

if TYPE_CHECKING:  # what only a run needs is imported by it
    from headrace.client.manage import Manager
    from headrace.client.told import Operation

WHOLE_ID = 32
"""Characters of an operation's id."""


def change(
    what: str,
    begin: Callable[[Manager], Operation],
    management: str,
    token: str | None,
    *,
    wait: bool,
    timeout: float | None,
    as_json: bool,
    version: str | None = None,
) -> None:
    """Have it begun, follow it, and show how the model is then."""
    from headrace.cli import showing

    if timeout is not None and not 0 < timeout <= 1e6:
        raise InvalidOption(f"--timeout is in seconds, above 0 and at most 1,000,000, not {timeout:g}")
    with manager_of(management, token) as manager:
        with showing.progress(what) as say:
            say(lambda: "asking")
            operation = begin(manager)
            if wait:
                for now in manager.follow(operation, timeout=timeout):
                    operation = now
                    say(partial(_waits_for, manager, now))
        if operation.running or operation.model is None or operation.kind == "unregister":
            if as_json:
                print_json(plain_of(operation))
            elif operation.running:
                print(f"begun; how it goes on: headrace models operations {operation.id}")
            else:
                print(f"{operation.kind}: {operation.state}")
            return
        seen = manager.show(operation.model, operation.version or version)
    if as_json:
        print_json(plain_of(seen))
    else:
        print(showing.outcome(seen))


def called(manager: Manager, id: str) -> Operation:
    """The change whose id is, or begins so."""
    if len(id) < WHOLE_ID:
        found = [each for each in manager.operations() if each.id.startswith(id)]
        if len(found) > 1:
            raise InvalidOption(f"the ids of {len(found)} changes begin with {id!r:.40}: say more of it")
        if found:
            return found[0]
    return manager.operation(id)


def _waits_for(manager: Manager, operation: Operation) -> str:
    """What a change that runs waits for, as far as can be seen."""
    if operation.model is None:
        return "waiting for its turn, or looking for the model"
    try:
        seen = manager.show(operation.model, operation.version)
    except HeadraceError:  # it is not there yet, or not any more
        return operation.kind
    if seen.state in ("REGISTERED", "LOADING"):
        return f"{seen.state}, waiting for its workers to be ready"
    return f"{seen.state}, {seen.ready_workers} of {max(seen.min_workers, len(seen.workers))} workers ready"


@contextmanager
def manager_of(url: str, token: str | None) -> Iterator[Manager]:
    """What goes wrong with it is one line on stderr, and an exit status."""
    from headrace.client.manage import manage

    manager = manage(url, token)  # InvalidOption is the command line's
    try:
        with manager:
            yield manager
    except (Unreachable, NoAnswer) as error:
        raise _end(error, 3 if isinstance(error, Unreachable) else 1) from error
    except HeadraceError as error:
        raise _end(error, 2 if type(error) is InvalidOption else 1) from error


def _end(error: HeadraceError, status: int) -> typer.Exit:
    from headrace.cli.showing import readable

    print(f"headrace: {readable(' '.join(str(error).split()))}", file=sys.stderr)
    return typer.Exit(status)


def plain_of(value: Any) -> Any:
    from headrace.cli.showing import as_json

    return as_json(value)


def print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2))
