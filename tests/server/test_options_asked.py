"""What a manager says of how a model is to be served, as options of ours."""

import pytest

from headrace.server.compat import Compat
from headrace.server.options_asked import options_of
from headrace.server.parameters import Parameters
from headrace.serving.compile_options import CompileOptions


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("", ()),
        ("batch_size=4", ()),
        ("max_batch_delay=0", ("max_batch_delay",)),
        ("response_timeout=5&startup_timeout=0", ("response_timeout", "startup_timeout")),
        ("startup_timeout=9&max_batch_delay=7&response_timeout=5",
         ("max_batch_delay", "response_timeout", "startup_timeout")),
    ],
)  # fmt: skip
def test_what_was_asked_for_goes_over_what_an_archive_says_also_where_it_is_nothing(
    query: str, asked: tuple[str, ...]
) -> None:
    assert options_of(Parameters(query), CompileOptions(), Compat.headrace).asked == asked
