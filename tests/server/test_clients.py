"""Clients that people already have, against a real server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from headrace.server.options import BUNDLED_DIGITS
from headrace.testing import RunningServer, run_server
from headrace.version import __version__

PICTURES = Path(__file__).resolve().parents[2] / "examples" / "digits" / "held_out"
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
MODULE = """
import numpy as np

def shout(text):
    return np.array([word.upper() for word in text], dtype=object)

def same(x):
    return x

def mend(x):
    raise ValueError("the password is swordfish")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("clients")
    (folder / "for_clients.py").write_text(MODULE)
    models = [f"for_clients:{name}" for name in ("shout", "same", "mend")]
    with run_server(f"digits={BUNDLED_DIGITS}", *models, cwd=folder) as server:
        yield server
        assert server.stop() == 0, server.log()


def http() -> Any:
    """Imported when it is used: it starts gevent, and is of no concern to the other clients here."""
    import tritonclient.http

    return tritonclient.http


@pytest.fixture
def triton(server: RunningServer) -> Iterator[Any]:
    with http().InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4) as client:
        yield client


def image(rows: int, binary: bool = False) -> Any:
    values = np.linspace(0, 1, rows * 64, dtype=np.float32).reshape(rows, 1, 8, 8)
    given = http().InferInput("image", list(values.shape), "FP32")
    given.set_data_from_numpy(values, binary_data=binary)
    return given


def wanted(name: str = "probabilities", binary: bool = False) -> Any:
    return http().InferRequestedOutput(name, binary_data=binary)


# ---- tritonclient


def test_tritons_client_finds_the_server_and_the_model_ready(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("digits")
    assert triton.is_model_ready("digits", "1.0")
    assert not triton.is_model_ready("nobody")
    assert not triton.is_model_ready("digits", "9")


def test_tritons_client_reads_the_metadata(triton: Any) -> None:
    assert triton.get_server_metadata() == {"name": "headrace", "version": __version__, "extensions": []}
    found = triton.get_model_metadata("digits")
    assert (found["name"], found["versions"], found["inputs"][0]["name"]) == ("digits", ["1.0"], "image")


@pytest.mark.parametrize("version", ["", "1.0"])
@pytest.mark.parametrize("rows", [1, 3])
def test_tritons_client_infers_over_json(triton: Any, version: str, rows: int) -> None:
    answer = triton.infer("digits", [image(rows)], model_version=version, outputs=[wanted()], request_id="7")
    assert answer.as_numpy("probabilities").shape == (rows, 10)
    np.testing.assert_allclose(answer.as_numpy("probabilities").sum(axis=1), 1, atol=1e-5)
    assert answer.get_response()["id"] == "7"


def test_tritons_client_gets_json_also_where_it_would_like_bytes(triton: Any) -> None:
    """Which is what it asks for when it is told nothing."""
    for outputs in (None, [wanted(binary=True)]):
        answer = triton.infer("digits", [image(1)], outputs=outputs)
        assert answer.as_numpy("probabilities").shape == (1, 10)


def test_tritons_client_sends_and_gets_text(triton: Any) -> None:
    given = http().InferInput("text", [2], "BYTES")
    given.set_data_from_numpy(np.array(["ab", "grün"], dtype=object), binary_data=False)
    answer = triton.infer("shout", [given], outputs=[wanted("output")])
    assert answer.as_numpy("output").tolist() in (["AB", "GRÜN"], [b"AB", "GRÜN".encode()])


def test_tritons_client_infers_asynchronously(triton: Any) -> None:
    waiting = [triton.async_infer("digits", [image(rows)], outputs=[wanted()]) for rows in (1, 2, 3, 4)]
    assert [one.get_result().as_numpy("probabilities").shape[0] for one in waiting] == [1, 2, 3, 4]


def test_tritons_client_with_a_query_and_headers_of_its_own(triton: Any) -> None:
    answer = triton.infer(
        "digits", [image(1)], outputs=[wanted()], query_params={"a": "b c"}, headers={"x-request-id": "mine"}
    )
    assert answer.as_numpy("probabilities").shape == (1, 10)


def test_tritons_client_is_told_that_bytes_are_not_taken_and_what_to_do(triton: Any) -> None:
    with pytest.raises(InferenceServerException, match="binary_data=False") as refused:
        triton.infer("digits", [image(1, binary=True)], outputs=[wanted()])
    assert refused.value.status() == "400"


@pytest.mark.parametrize(
    ("model", "version", "status", "says"),
    [
        ("nobody", "", "404", "model not found: nobody"),
        ("digits", "9", "404", "model not found: digits:9"),
        ("a/b", "", "404", ""),
        ("mend", "", "400", "no input 'image'"),
    ],
)
def test_tritons_client_reads_our_errors(triton: Any, model: str, version: str, status: str, says: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        triton.infer(model, [image(1)], model_version=version, outputs=[wanted()])
    assert refused.value.status() == status
    assert says in refused.value.message()


def test_tritons_client_is_not_told_what_a_model_raised(triton: Any) -> None:
    given = http().InferInput("x", [1], "FP32")
    given.set_data_from_numpy(np.ones(1, np.float32), binary_data=False)
    with pytest.raises(InferenceServerException, match="ValueError") as failed:
        triton.infer("mend", [given])
    assert failed.value.status() == "500"
    assert "swordfish" not in failed.value.message()


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_tritons_client_is_told_that_compression_is_not_taken(triton: Any, compression: str) -> None:
    with pytest.raises(InferenceServerException, match="Content-Encoding"):
        triton.infer("digits", [image(1)], outputs=[wanted()], request_compression_algorithm=compression)


# ---- httpx


def test_httpx_sends_every_picture_over_few_connections(server: RunningServer) -> None:
    right = 0
    pictures = sorted(PICTURES.iterdir())[:100]
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        for picture in pictures:
            answer = client.post("/predictions/digits", content=picture.read_bytes())
            answer.raise_for_status()
            right += next(iter(answer.json())) == DIGITS[int(picture.stem[-1])]
    assert right >= 95


def test_httpx_with_form_files(server: RunningServer) -> None:
    file = picture(3).read_bytes()
    answer = httpx.post(f"{server.url}/predictions/digits", files={"data": file}, trust_env=False)
    assert next(iter(answer.json())) == "three"


# ---- curl

curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def run_curl(*arguments: str) -> bytes:
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30", *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout


def picture(label: int) -> Path:
    return next(path for path in sorted(PICTURES.iterdir()) if path.stem.endswith(f"-{label}"))


@curl
def test_curl_t(server: RunningServer) -> None:
    """As the documents of both old servers have it."""
    out = run_curl("-T", str(picture(3)), f"{server.url}/predictions/digits")
    assert out.startswith(b'{\n  "three"')


@curl
def test_curl_x_post_t(server: RunningServer) -> None:
    assert run_curl("-X", "POST", "-T", str(picture(3)), f"{server.url}/predictions/digits/1.0").startswith(b'{\n  "th')


@curl
def test_curl_data_binary(server: RunningServer) -> None:
    """curl calls this a form; a picture is a picture all the same."""
    out = run_curl("--data-binary", f"@{picture(5)}", f"{server.url}/predictions/digits")
    assert out.startswith(b'{\n  "five"')


@curl
@pytest.mark.parametrize("field", ["data", "file"])
def test_curl_f(server: RunningServer, field: str) -> None:
    out = run_curl("-F", f"{field}=@{picture(5)}", f"{server.url}/predictions/digits")
    assert out.startswith(b'{\n  "five"')


@curl
def test_curl_data_binary_bytes_to_a_function(server: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "bytes"
    file.write_bytes(bytes(range(256)) * 1000)  # large enough for `Expect: 100-continue`
    header = ("-H", "Content-Type: application/octet-stream")
    assert run_curl(*header, "--data-binary", f"@{file}", f"{server.url}/predictions/same") == file.read_bytes()


@curl
def test_curl_d_json(server: RunningServer) -> None:
    assert run_curl("-d", '{"a": 1}', f"{server.url}/predictions/same") == b'{\n  "a": 1\n}'


@curl
def test_curl_chunked_upload(server: RunningServer) -> None:
    arguments = ("-H", "Transfer-Encoding: chunked", "-T", str(picture(3)))
    assert run_curl(*arguments, f"{server.url}/predictions/digits").startswith(b'{\n  "three"')


@curl
def test_curl_fails_where_it_should(server: RunningServer) -> None:
    out = run_curl("-o", "-", "-w", "%{http_code}", "-T", str(picture(3)), f"{server.url}/predictions/nobody")
    assert out.endswith(b"404")


@curl
def test_curl_head(server: RunningServer) -> None:
    assert run_curl("-I", f"{server.url}/ping").startswith(b"HTTP/1.1 200")
