"""Lines that a handler prints have the id of the request they are printed for."""

import io
import logging
import textwrap
import time

import pytest
from handler_archives import Serve, ask

from headrace.archives.printed import Printed


def printed(*texts: str, request_id: str = "7") -> str:
    file = io.BytesIO()
    out = Printed(file, newline="\n")
    out.request_id = request_id
    for text in texts:
        print(text, file=out, end="")
    out.flush()
    return file.getvalue().decode()


def test_each_line_is_marked_once() -> None:
    assert printed("a\n", "b", " c", "\n") == "\x1e7\x1ea\n\x1e7\x1eb c\n"
    assert printed("a\nb\n\nc") == "\x1e7\x1ea\n\x1e7\x1eb\n\x1e7\x1e\n\x1e7\x1ec"
    assert printed("", "\n") == "\x1e7\x1e\n"
    assert printed("a\nb\n", request_id="") == "a\nb\n"


def test_what_it_says_for_a_request_has_its_id_in_the_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    source = textwrap.dedent("""
        import logging
        def handle(data, context):
            if data is None:
                print("it begins")
                return None
            print("seen", bytes(data[0]["body"]).decode())
            logging.getLogger("mine").info("noted")
            return ["x"]
    """)
    caplog.set_level(logging.INFO, "headrace.workers")
    model = serve(source)
    ask(model, b"one", request_id="id-1")
    ask(model, b"two", request_id="id-2")

    def found() -> dict[str, object]:
        said = [(each.getMessage().partition(": ")[2], each) for each in caplog.records]
        return {text: getattr(each, "request_id", None) for text, each in said}

    wanted = {"it begins": None, "seen one": "id-1", "seen two": "id-2"}
    until = time.monotonic() + 30
    while not wanted.items() <= found().items() and time.monotonic() < until:
        time.sleep(0.01)  # a pipe of another process
    assert wanted.items() <= found().items(), caplog.text
    assert "INFO mine: noted" in found()
