"""`context`, row by row: a handler in a worker evaluates what a test asks it to."""

import json
from typing import Any

import pytest
from handler_archives import JSON, Serve, ask, ask_json, together

import headrace as hr

SOURCE = """
from gated import gated

@gated
def handle(data, context):
    if data is None:
        return None
    answers = []
    for idx, row in enumerate(data):
        answers.append(repr(eval(row["body"]["ask"], {"context": context, "idx": idx, "data": data})))
    return answers
"""
HEADERS = (*JSON, ("X-Trace", "7"), ("explain", "False"), ("TS_REQUEST_SEQUENCE_ID", "s-1"))


@pytest.fixture(scope="module")
def model(serve: Serve) -> hr.Model:
    return serve(
        SOURCE, {"configFile": "model.yaml"}, {"model.yaml": "minWorkers: 1\nmine: {a: 2}\n"}, batch=4, delay=0.5
    )


def evaluated(model: hr.Model, expression: str) -> Any:
    """What it was, and the answer's head where it has one."""
    answer = ask(model, json.dumps({"ask": expression}).encode(), HEADERS)
    body, *head = answer if isinstance(answer, tuple) else (answer,)
    return eval(body, {}, {}), *head


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("context.model_name", "m"),
        ("context.manifest['model']['modelVersion']", "2.5"),
        ("context.manifest['runtime']", "python"),
        ("context.system_properties['gpu_id']", None),
        ("context.system_properties['batch_size']", 4),
        ("context.system_properties['server_name']", "MMS"),
        ("isinstance(context.system_properties['server_version'], str)", True),
        ("context.system_properties['limit_max_image_pixels']", True),
        ("context.system_properties.get('model_dir') == __import__('os').getcwd()", True),
        ("context.request_ids", {0: "id-0"}),
        ("context.model_yaml_config", {"minWorkers": 1, "mine": {"a": 2}}),
        ("context.stopping_criteria", None),
        ("context.cl_socket", None),
        ("type(context.metrics).__name__", "Metrics"),
        ("context.get_request_id()", "id-0"),
        ("context.get_request_id(3)", None),
        ("context.get_request_header(0, 'X-Trace')", "7"),
        ("context.get_request_header(0, 'x-trace')", None),
        ("context.get_request_header(0, 'explain')", "False"),
        ("context.get_all_request_header(0)", dict(HEADERS)),
        ("context.get_sequence_id(0)", "s-1"),
        ("context.cache", {}),
        ("context.header_key_sequence_id", "ts_request_sequence_id"),
        ("context.header_key_sequence_start", "ts_request_sequence_start"),
        ("context.header_key_sequence_end", "ts_request_sequence_end"),
        ("context.get_response_content_type(0)", None),
        ("context.get_response_headers(0)", {}),
        ("context.get_response_status(0)", (200, None)),
        ("context.get_http_response_status(0)", (200, None)),
        ("context == context", True),
        ("len(context.request_processor)", 1),
        ("context.request_processor[0].get_request_property('X-Trace')", "7"),
        ("context.request_processor[0].get_request_properties() == context.get_all_request_header(0)", True),
        ("context.request_processor[0].get_response_status_code()", 200),
        ("context.request_processor[0].get_response_status_phrase()", None),
        ("context.request_processor[0].get_response_headers()", {}),
        ("context.request_processor[0].get_response_header('a')", None),
        ("context.request_processor[0].get_response_header()", {}),
        ("context.request_processor._request_header['X-Trace']", "7"),  # of the first: it was no list once
        ("context.request_processor.get_request_property('X-Trace')", "7"),
    ],
)
def test_what_may_be_read(model: hr.Model, expression: str, value: Any) -> None:
    assert evaluated(model, expression) == (value,)


@pytest.mark.parametrize(
    ("expression", "head"),
    [
        ("context.set_response_content_type(0, 'image/png')", ["image/png", 200, None, ()]),
        ("context.set_response_header(0, 'x-a', 'b')", [None, 200, None, (("x-a", "b"),)]),
        ("context.set_response_status(404, 'gone', 0)", [None, 404, "gone", ()]),
        ("context.set_response_status(code=599, idx=0)", [None, 599, None, ()]),
        ("context.set_all_response_status(207, 'some')", [None, 207, "some", ()]),
        ("context.set_http_response_status(404, 'gone', 0)", [None, 404, "gone", ()]),
        ("context.request_processor[0].report_status(400, 'bad')", [None, 400, "bad", ()]),
        ("context.request_processor[0].report_status(400, reason_phrase='bad')", [None, 400, "bad", ()]),
        ("context.request_processor[0].add_response_property('x-a', 'b')", [None, 200, None, (("x-a", "b"),)]),
        ("context.request_processor.report_status(500, 'Unknown inference error')",
         [None, 500, "Unknown inference error", ()]),
    ],
)  # fmt: skip
def test_what_may_be_set(model: hr.Model, expression: str, head: Any) -> None:
    assert evaluated(model, expression) == (None, *head)
    assert evaluated(model, "1") == (1,)  # and nothing of it is left for the next request


def test_what_was_set_may_be_read(model: hr.Model) -> None:
    both = "(context.set_response_content_type(0, 'a/b'), context.get_response_content_type(0))"
    assert evaluated(model, both)[0] == (None, "a/b")
    both = "(context.set_response_status(201, 'made'), context.get_response_status(0))"
    assert evaluated(model, both)[0] == (None, (201, "made"))


def test_a_field_has_its_content_type_for_a_header(serve: Serve) -> None:
    model = serve("def handle(data, context):\n    return [context.get_request_header(0, 'img')] if data else None\n")
    assert json.loads(ask(model, (("img", "image/png", b""),))) == {"content-type": "image/png"}


def test_each_request_of_a_batch_has_its_own(model: hr.Model) -> None:
    asked = "(len(data), idx, context.get_request_id(idx), context.request_ids[idx])"
    requests = [(f"id-{i}", JSON, json.dumps({"ask": asked}).encode()) for i in range(4)]
    answers = [eval(each) for each in together(model, requests)]
    assert [each[2] for each in answers] == [f"id-{i}" for i in range(4)] == [each[3] for each in answers]
    assert max(each[0] for each in answers) > 1


def test_the_no_op_service_of_multi_model_server_runs_as_it_is(serve: Serve) -> None:
    """Its shape: a module's function, its service made once, its status told to the first request's processor."""
    model = serve(
        """
        import logging

        class NoopService(object):
            def __init__(self):
                self._context = None
                self.initialized = False

            def initialize(self, context):
                self._context = context
                self.initialized = True

            @staticmethod
            def preprocess(data):
                return data

            @staticmethod
            def inference(model_input):
                return model_input

            @staticmethod
            def postprocess(data):
                return ["OK"]

            def handle(self, data, context):
                properties = context.system_properties
                assert properties.get("server_name") and "model_dir" in properties
                context.set_response_content_type(0, "text/plain")
                context.request_processor[0].add_response_property("content-type", "text/plain")
                content_type = context.request_processor[0].get_request_property("Content-Type")
                data = self.preprocess(data)
                data = self.inference(data)
                data = self.postprocess(data)
                context.request_processor[0].report_status(200)
                return data

        _service = NoopService()

        def handle(data, context):
            if not _service.initialized:
                _service.initialize(context)
            if data is None:
                return None
            return _service.handle(data, context)
        """
    )
    assert ask(model, b"x") == (b"OK", "text/plain", 200, None, ())


def test_what_is_measured_and_what_is_sent_before_the_end(serve: Serve) -> None:
    """The worker's side of both is another's; this handler listens to what it is told."""
    model = serve(
        """
        import headrace_worker
        from ts.handler_utils.utils import send_intermediate_predict_response
        from ts.protocol.otf_message_handler import send_intermediate_predict_response as old
        from ts.metrics.dimension import Dimension
        from ts.metrics.metric_type_enum import MetricTypes

        told, sent = [], []
        headrace_worker.tell_metrics = told.extend
        headrace_worker.send_part = lambda index, answer: sent.append((index, answer))

        def handle(data, context):
            if data is None:
                context.metrics.add_counter("Loads", 1)
                return None
            before = list(told), list(sent)
            told.clear(), sent.clear()
            context.metrics.add_counter("Cats", 2, 0, [Dimension("Kind", "small")])
            context.metrics.add_metric_to_cache("Sizes", "MB", ["Kind"], MetricTypes.HISTOGRAM).add_or_update(1, ["x"])
            assert old is send_intermediate_predict_response
            context.set_response_content_type(0, "text/plain")
            send_intermediate_predict_response(["part one "], context.request_ids, "more", 200, context)
            send_intermediate_predict_response([{"n": 1}], context.request_ids, "more", 200, context)
            return [repr(before)]
        """
    )
    told, sent = eval(ask(model)[0])
    assert told == [("Loads", "counter", "count", 1.0, {"ModelName": "m", "Level": "Model"})]
    told, sent = eval(ask(model)[0])
    assert told == [
        ("Cats", "counter", "count", 2.0, {"Kind": "small", "ModelName": "m", "Level": "Model"}),
        ("Sizes", "histogram", "MB", 1.0, {"Kind": "x"}),
    ]
    assert sent == [
        (0, (b"part one ", "text/plain", 200, None, ())),
        (0, (b'{\n  "n": 1\n}', "text/plain", 200, None, ())),
    ]


@pytest.mark.parametrize(
    ("part", "answer"), [("None", (513, "enough")), ("[object()]", (503, "Unsupported model output"))]
)
def test_a_part_that_cannot_be_sent_ends_the_answer(serve: Serve, part: str, answer: Any) -> None:
    model = serve(
        f"""
        import headrace_worker
        from ts.handler_utils.utils import send_intermediate_predict_response

        headrace_worker.send_part = None

        def handle(data, context):
            if data is None:
                return None
            send_intermediate_predict_response({part}, context.request_ids, "enough", 513, context)
            return ["not reached"]
        """
    )
    status, kind, message = ask(model)
    assert (status, kind) == (answer[0], "InternalServerException")
    assert message.startswith(answer[1])


def test_a_handler_describes_itself(serve: Serve) -> None:
    model = serve(
        """
        class Service:
            def describe_handle(self):
                return {"labels": 10}

            def handle(self, data, context):
                return ["served"] * len(data)
        """
    )
    assert ask_json(model, 0, (("describe", "True"),)) == {"labels": 10}
    assert ask(model) == b"served"
