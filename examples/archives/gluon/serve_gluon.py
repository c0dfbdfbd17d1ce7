"""A Gluon network in an environment of its own, with mxnet 1.9.1 and a NumPy that the server does not have.

python examples/archives/gluon/serve_gluon.py
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from show import CACHE, PICTURES, archiver, curl, environment, python_up_to, run, served

HERE = Path(__file__).resolve().parent


def main() -> None:
    python = environment("mxnet", "mxnet==1.9.1", "numpy<1.24", "pillow", python=python_up_to(11))
    store, model = CACHE / "gluon-store", CACHE / "gluon-model"
    for folder in (store, model):
        folder.mkdir(parents=True, exist_ok=True)
    run(python, HERE / "make_network.py", model)
    shutil.copy(HERE / "gluon_service.py", model)
    pack = (archiver("model-archiver", "1.0.3"), "--model-path", model, "--export-path", store, "--force")
    run(*pack, "--model-name", "squeezenet", "--handler", "gluon_service:handle", "--runtime", "python3")
    models = ("--models", "squeezenet=squeezenet.mar", "--python", f"squeezenet={python.parents[1]}")
    with served("--model-store", store, *models) as url:
        answer = json.loads(curl(f"{url}/predictions/squeezenet", "-T", PICTURES / "0034-6.png"))
    assert len(answer) == 3, answer
    assert all(one["class"].startswith("class-") for one in answer), answer


if __name__ == "__main__":
    main()
