"""A small sequence-to-sequence model with random weights, as ONNX: make_model.py OUT

Tokens in, as many tokens out, one sequence a run. The encoder is a layer of self-attention; the decoder is a loop that
writes one token a step, and at every step attends to all that the encoder has read. Both grow with the square of the
length, so a long sequence that comes first ends long after a short one that comes second, as in translation or speech.
(A trained model decides when to stop. This one writes as much as it has read.)
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
from onnx import numpy_helper, parser

TOKENS, WIDTH = 256, 64

GRAPH = f"""
<ir_version: 8, opset_import: ["" : 17]>
sequence_to_sequence (int64[length] source) => (int64[length] translated) {{
    embedded = Gather(embedding, source)
    queries = MatMul(embedded, w_query)
    keys = Transpose(embedded)
    relevance = MatMul(queries, keys)
    attention = Softmax(relevance)
    attended = MatMul(attention, embedded)
    encoded = Add(embedded, attended)
    memory = Transpose(encoded)
    steps = Size(source)
    last_token, last_state, written = Loop(steps, always, first_token, first_state) <body = decoder_step (
        int64 step, bool going, int64[1] token, float[1, {WIDTH}] state
    ) => (bool go_on, int64[1] next_token, float[1, {WIDTH}] next_state, int64[1] written_token) {{
        go_on = Identity(going)
        word = Gather(embedding, token)
        query = Add(word, state)
        scores = MatMul(query, memory)
        focus = Softmax(scores)
        context = MatMul(focus, encoded)
        heard = Add(query, context)
        mixed = MatMul(heard, w_state)
        next_state = Tanh(mixed)
        logits = MatMul(next_state, w_out)
        next_token = ArgMax <axis = 1, keepdims = 0> (logits)
        written_token = Identity(next_token)
    }}>
    second_axis = Constant <value_ints = [1]> ()
    translated = Squeeze(written, second_axis)
}}
"""


def make_model() -> bytes:
    rng = np.random.default_rng(0)

    def random(rows: int, columns: int) -> np.ndarray:
        return rng.normal(0, rows**-0.5, (rows, columns)).astype(np.float32)

    weights = {
        "embedding": random(TOKENS, WIDTH),
        "w_query": random(WIDTH, WIDTH),
        "w_state": random(WIDTH, WIDTH),
        "w_out": random(WIDTH, TOKENS),
        "first_token": np.zeros(1, np.int64),
        "first_state": np.zeros((1, WIDTH), np.float32),
        "always": np.array(True),
    }
    model = parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.checker.check_model(model, full_check=True)
    serialized: bytes = model.SerializeToString()
    return serialized


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as file:
        file.write(make_model())
