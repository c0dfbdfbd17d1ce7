"""An archive made by torch-model-archiver, with a handler that extends TorchServe's BaseHandler.

python examples/archives/torchserve/serve_torchserve.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from show import CACHE, PICTURES, ROOT, archiver, curl, environment, run, served

HERE = Path(__file__).resolve().parent


def main() -> None:
    python = environment("torch", "torch==2.13.0", "pillow", "numpy", "onnx")
    store, weights = CACHE / "torchserve-store", CACHE / "digits.pt"
    store.mkdir(parents=True, exist_ok=True)
    run(python, HERE / "make_weights.py", ROOT / "src/headrace/bundled/digits/digits.onnx", weights)
    run(
        archiver("torch-model-archiver", "0.12.0"),
        "--model-name", "digits", "--version", "1.0", "--model-file", HERE / "model.py", "--serialized-file", weights,
        "--handler", HERE / "handler.py", "--extra-files", HERE / "index_to_name.json",
        "--config-file", HERE / "model-config.yaml", "--requirements-file", HERE / "requirements.txt",
        "--export-path", store, "--force",
    )  # fmt: skip
    with served(
        "--model-store", store, "--models", "digits=digits.mar", "--python", f"digits={python.parents[1]}"
    ) as url:
        answer = json.loads(curl(f"{url}/predictions/digits", "-T", PICTURES / "0034-6.png"))
    assert max(answer, key=answer.get) == "six", answer


if __name__ == "__main__":
    main()
