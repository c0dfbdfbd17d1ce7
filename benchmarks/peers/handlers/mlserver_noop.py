"""mlserver: a runtime that answers zeros. Its settings are written next to the run (see ../servers.py)."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Noop(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        n = payload.inputs[0].shape[0]
        output = ResponseOutput(name="y", shape=[n, 1], datatype="FP32", data=[0.0] * n)
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[output])
