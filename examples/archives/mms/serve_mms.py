"""An archive made by model-archiver, with a service as they were written for Multi Model Server.

python examples/archives/mms/serve_mms.py
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from show import CACHE, PICTURES, ROOT, archiver, curl, run, served

HERE = Path(__file__).resolve().parent


def main() -> None:
    store, model = CACHE / "mms-store", CACHE / "mms-model"
    for folder in (store, model):
        folder.mkdir(parents=True, exist_ok=True)
    for file in (HERE / "digits_service.py", HERE / "synset.txt", ROOT / "src/headrace/bundled/digits/digits.onnx"):
        shutil.copy(file, model)
    run(
        archiver("model-archiver", "1.0.3"),
        "--model-name", "digits", "--model-path", model, "--handler", "digits_service:handle",
        "--runtime", "python3", "--export-path", store, "--force",
    )  # fmt: skip
    with served("--model-store", store, "--models", "digits=digits.mar") as url:
        picture = PICTURES / "0034-6.png"
        answer = json.loads(curl(f"{url}/predictions/digits", "-T", picture))
        form = json.loads(curl(f"{url}/predictions/digits", "-F", f"data=@{picture}"))
    assert answer[0]["class"] == "six", answer
    assert form == answer, form


if __name__ == "__main__":
    main()
