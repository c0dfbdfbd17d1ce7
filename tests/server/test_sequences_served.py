"""Sequences through a real server: a handler that keeps a sum for each, as TorchServe's stateful examples do."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from headrace.server.custom import LONGEST_ID, in_sequence, reply_of
from headrace.testing import RunningServer, make_archive, run_server
from headrace.workers.sequenced import SequenceHeaders, turn_of

PATIENCE = 60.0
ID, START, END = "ts_request_sequence_id", "ts_request_sequence_start", "ts_request_sequence_end"
HANDLER = """
import os
from ts.handler_utils.utils import send_intermediate_predict_response

class Sums:
    def initialize(self, context):
        self.context = context
        context.cache = {}

    def handle(self, data, context):
        answers = []
        for index, row in enumerate(data):
            sequence = context.get_sequence_id(index)
            body = (row.get("data") or row.get("body")).decode()
            if body == "pid":
                answers.append(str(os.getpid()))
                continue
            if body == "names":
                answers.append(context.header_key_sequence_end)
                continue
            if body.startswith("die"):
                if not os.path.exists(body[4:]):
                    open(body[4:], "w").close()
                    os._exit(3)
                body = "0"
            if body == "parts":
                for part in "abc":
                    send_intermediate_predict_response([part], context.request_ids, "", 200, context)
                answers.append("d")
                body = "100"
            total = context.cache[sequence] = context.cache.get(sequence, 0) + int(body)
            if len(answers) <= index:
                answers.append(str(total))
            if context.get_request_header(index, context.header_key_sequence_end) == "true":
                del context.cache[sequence]
        return answers
"""
YAML = """
minWorkers: 2
batchSize: 4
sequenceBatching: true
sequenceMaxIdleMSec: 600000
maxNumSequence: 20
maxSequenceJobQueueSize: 3
"""


def archive(folder: Path, name: str, yaml: str) -> Path:
    files = {"sums.py": HANDLER, "model-config.yaml": yaml}
    return make_archive(folder, name, files=files, handler="sums", config_file="model-config.yaml")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("archives")
    models = [archive(folder, "sums", YAML), archive(folder, "plain", "sequenceBatching: false\n")]
    with run_server(*map(str, models), "--workers=2", "--sequence-end-header=X-Last") as running:
        yield running


def ask(server: RunningServer, body: object, model: str = "sums", **headers: str) -> httpx.Response:
    url = f"{server.url}/predictions/{model}"
    return httpx.post(url, content=str(body), headers=headers, timeout=PATIENCE, trust_env=False)


def test_a_running_sum_for_each_sequence(server: RunningServer) -> None:
    def client(name: str) -> list[str]:
        answers = []
        for value in range(1, 11):
            said = {ID: name, **({START: "true"} if value == 1 else {}), **({"x-last": "true"} if value == 10 else {})}
            answer = ask(server, value, **said)
            assert (answer.status_code, answer.headers[ID]) == (200, name)
            answers.append(answer.text)
        assert "it was ended" in ask(server, 1, **{ID: name}).json()["message"]
        return answers

    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(client, [f"s{n}" for n in range(16)]):
            assert answers == [str(sum(range(value + 1))) for value in range(1, 11)]


def test_who_names_none_has_begun_one_and_is_told_its_name(server: RunningServer) -> None:
    answer = ask(server, 1)
    name = answer.headers[ID]
    assert name.startswith("ts-seq-")
    assert len(answer.headers.get_list(ID)) == 1
    assert [ask(server, 1, **{ID: name}).text, ask(server, 1, **{ID: name, "X-Last": "TRUE"}).text] == ["2", "3"]


def test_a_handler_is_told_what_the_headers_are_called(server: RunningServer) -> None:
    assert ask(server, "names").text == "X-Last"


def test_what_is_not_open_is_a_503_in_the_old_words(server: RunningServer) -> None:
    answer = ask(server, 1, **{ID: "never"})
    assert (answer.status_code, answer.json()["type"]) == (503, "ServiceUnavailableException")
    assert answer.json()["message"].startswith(
        'Model "sums" has no worker to serve inference request. Please use scale'
    )
    assert "if it is closed, or expired; or exceeds maxSequenceJobQueueSize" in answer.json()["message"]


def test_an_answer_in_parts_is_one_request_of_its_sequence(server: RunningServer) -> None:
    name = ask(server, 1).headers[ID]
    url = f"{server.url}/predictions/sums"
    with httpx.stream("POST", url, content=b"parts", headers={ID: name}, timeout=PATIENCE, trust_env=False) as answer:
        assert (answer.headers["ts_stream_next"], answer.headers[ID]) == ("true", name)
        behind = ask(server, 1, **{ID: name, "X-Last": "true"})
        assert answer.read() == b"abcd"
    assert behind.text == "102"


def test_with_its_worker_a_sequence_is_lost_and_begins_anew(server: RunningServer) -> None:
    name = ask(server, 5).headers[ID]
    os.kill(int(ask(server, "pid", **{ID: name}).text), signal.SIGKILL)
    lost = ask(server, 1, **{ID: name})
    assert lost.status_code == 503
    assert "lost" in lost.json()["message"] or "while it ran this request" in lost.json()["message"]
    assert ask(server, 7, **{ID: name, START: "true", "X-Last": "true"}).text == "7"


def test_what_had_begun_when_its_worker_died_is_not_run_again(server: RunningServer, tmp_path: Path) -> None:
    once = tmp_path / "once"
    answer = ask(server, f"die {once}", **{ID: "d", START: "true"})
    assert (answer.status_code, once.exists()) == (503, True)
    assert "while it ran this request" in answer.json()["message"]


def test_models_without_sequences_are_told_nothing_of_them(server: RunningServer) -> None:
    answer = ask(server, 1, "plain")
    assert (answer.text, ID in answer.headers) == ("1", False)


# ---- pure


def test_headers_say_which_sequence_however_they_are_written() -> None:
    names = SequenceHeaders("Seq", "Begin", "Last")
    turn = turn_of((("SEQ", " a "), ("begin", "True"), ("LAST", "no")), names)
    assert turn is not None
    assert (turn.id, turn.start, turn.end) == ("a", True, False)
    assert turn_of((("begin", "true"), ("seq", "")), names) is None


def test_a_made_up_sequence_begins() -> None:
    headers, id = in_sequence(((START, "false"), ("a", "b")), SequenceHeaders())
    assert headers == (("a", "b"), (ID, id), (START, "true"))


@pytest.mark.parametrize("id", ["x" * (LONGEST_ID + 1), "a\r\nb", "\x00"])
def test_a_name_that_cannot_be_sent_back_is_refused(id: str) -> None:
    with pytest.raises(ValueError, match=ID):
        in_sequence(((ID, id),), SequenceHeaders())


def test_what_a_handler_says_of_its_sequence_stands() -> None:
    told = (b"x", None, 200, None, ((ID.upper(), "its own"),))
    assert reply_of(told, more=(ID, "ours")).headers == ((ID.upper().encode(), b"its own"),)
    assert reply_of(b"x", more=(ID, "ours")).headers == ((ID.encode(), b"ours"),)
