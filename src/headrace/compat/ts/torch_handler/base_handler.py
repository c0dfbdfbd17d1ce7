"""TorchServe's base handler: loads a model, and is preprocess, inference, postprocess.

Rule 1: its attributes and methods are TorchServe's, since handlers override and read them.
Rule 2: torch is needed by models that are torch's, onnxruntime by ONNX files; neither is missed by the other.
Rule 3: an archive is code. What lies in it may be unpickled: it could as well have done so itself.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import sys
import time
from typing import Any

from ts.handler_utils.timer import timed
from ts.utils.util import list_classes_from_module, load_label_mapping

try:
    import torch
except ImportError:
    torch = None

PROFILER_AVAILABLE = torch is not None and hasattr(torch, "profiler")
PT2_AVAILABLE = torch is not None and hasattr(torch, "compile")
IPEX_AVAILABLE = ipex_enabled = False
try:
    import torch_xla.core.xla_model as xm

    XLA_AVAILABLE = True
except ImportError:
    XLA_AVAILABLE = False
try:
    import onnxruntime

    ONNX_AVAILABLE = True
except ImportError:
    ONNX_AVAILABLE = False
logger = _log = logging.getLogger(__name__)
_FILES = "a .pt (TorchScript), .onnx, .pt2 or .so file, or a state dict with a modelFile"


def setup_ort_session(model_pt_path: str, map_location: Any) -> Any:
    """A session with as many threads as its worker has, on the GPU if the model is there."""
    options = onnxruntime.SessionOptions()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit():
        options.intra_op_num_threads = int(threads)
    wanted = ["CUDAExecutionProvider"] if map_location == "cuda" else []
    there = onnxruntime.get_available_providers()
    providers = [*(each for each in wanted if each in there), "CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model_pt_path, options, providers=providers)


class BaseHandler:
    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: Any = None
        self.device: Any = None
        self.initialized = False
        self.context: Any = None
        self.model_pt_path: Any = None
        self.manifest: Any = None
        self.map_location: Any = None
        self.explain = False
        self.target = 0
        self.profiler_args: dict[str, Any] = {}

    # ---- loading

    def initialize(self, context: Any) -> None:
        self.context = context
        self.model_yaml_config = getattr(context, "model_yaml_config", None) or {}
        properties = context.system_properties
        self.map_location, self.device = _device(properties.get("gpu_id"))
        self.manifest = context.manifest
        model_dir = properties.get("model_dir")
        model, named = self.manifest["model"], self.manifest["model"].get("serializedFile")
        # Set in either case: a handler's own __init__ need not call this one's.
        self.model_pt_path = os.path.join(model_dir, named) if named else None
        self.model = self._loaded(model_dir, model.get("modelFile") or "")
        self._compile()
        self.mapping = load_label_mapping(os.path.join(model_dir, "index_to_name.json"))
        self.initialized = True

    def _loaded(self, model_dir: str, model_file: str) -> Any:
        path = self.model_pt_path
        if torch is None and (model_file or (path or "").endswith((".pt", ".so", ".pt2"))):
            raise RuntimeError(f"{model_file or path} needs torch in the environment of its worker ({sys.executable})")
        if model_file:
            model = self._load_pickled_model(model_dir, model_file, path)
            model.to(self.device)
            model.eval()
            return model
        if path is None:
            raise RuntimeError(f"the archive has no model: its manifest names no serializedFile ({_FILES})")
        if path.endswith(".pt"):
            model = self._load_torchscript_model(path)
            model.eval()
            return model
        if path.endswith(".onnx"):
            if not ONNX_AVAILABLE:
                raise RuntimeError(f"{path} needs onnxruntime in the environment of its worker")
            return setup_ort_session(path, self.map_location)
        if path.endswith((".so", ".pt2")):
            return self._load_torch_export_aot_compile(path)
        raise RuntimeError(f"{path} is no model: {_FILES} was expected")

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return torch.jit.load(model_pt_path, map_location=self.device)

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        """A library that was compiled ahead, or a package: an exported program or what was compiled of one."""
        if self.map_location == "cuda":
            torch.cuda.set_device(self.device)
        if model_so_path.endswith(".so"):
            return torch._export.aot_load(model_so_path, self.map_location)
        try:
            return torch.export.load(model_so_path).module().to(self.device)
        except Exception as error:
            try:
                return torch._inductor.aoti_load_package(model_so_path)
            except Exception:
                raise error from None

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: Any) -> Any:
        """The one class of `model_file`, with the weights of its state dict."""
        if not os.path.isfile(os.path.join(model_dir, model_file)):
            raise RuntimeError(f"the archive has no {model_file}, which its manifest names as modelFile")
        module = importlib.import_module(os.path.basename(model_file).split(".")[0])
        kinds = list_classes_from_module(module)
        if len(kinds) > 1:  # parts of the model are modules as well; TorchServe refused these files
            made_of = [kind for kind in kinds if issubclass(kind, torch.nn.Module)]
            kinds = made_of if len(made_of) == 1 else kinds
        if len(kinds) != 1:
            raise ValueError(
                f"{model_file} must define exactly one class, the model; it defines {len(kinds)}: "
                + ", ".join(kind.__name__ for kind in kinds)
            )
        model = kinds[0]()
        if model_pt_path:
            model.load_state_dict(self._state(model_pt_path))
        return model

    def _state(self, path: str) -> Any:
        try:
            return torch.load(path, map_location=self.device)
        except pickle.UnpicklingError:  # from torch 2.6 on, weights alone are loaded unless one says otherwise
            return torch.load(path, map_location=self.device, weights_only=False)

    def _compile(self) -> None:
        options = _compile_options(self.model_yaml_config.get("pt2"))
        if options is None:
            return
        if not PT2_AVAILABLE:
            _log.warning(
                "the model's YAML asks for torch.compile, which torch has from 2.0 on; the model runs as it is"
            )
            return
        try:
            self.model = torch.compile(self.model, **options)
        except Exception:
            _log.warning("torch.compile failed; the model runs as it is", exc_info=True)

    # ---- running

    @timed
    def preprocess(self, data: Any) -> Any:
        return data if torch is None else torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        if ONNX_AVAILABLE and isinstance(self.model, onnxruntime.InferenceSession):
            return self._run_session(data)
        with getattr(torch, "inference_mode", torch.no_grad)():
            return self.model(data.to(self.device), *args, **kwargs)

    def _run_session(self, data: Any) -> Any:
        import numpy as np

        spec = self.model.get_inputs()[0]
        kinds = {
            "tensor(float)": "float32",
            "tensor(double)": "float64",
            "tensor(int64)": "int64",
            "tensor(int32)": "int32",
        }
        array = data.detach().cpu().numpy() if hasattr(data, "detach") else np.asarray(data)
        array = array.astype(kinds.get(spec.type, array.dtype), copy=False)
        outputs = self.model.run(None, {spec.name: array})
        made = outputs if torch is None else [torch.as_tensor(each) for each in outputs]
        return made[0] if len(made) == 1 else made

    @timed
    def postprocess(self, data: Any) -> Any:
        return data.tolist()

    def handle(self, data: Any, context: Any) -> Any:
        began = time.perf_counter()
        self.context = context
        if os.environ.get("ENABLE_TORCH_PROFILER"):
            output, _ = self._infer_with_profiler(data)
        elif self._is_describe():
            output = [self.describe_handle()]
        else:
            output = self._steps(data)
        context.metrics.add_time("HandlerTime", round((time.perf_counter() - began) * 1000, 2), None, "ms")
        return output

    def _steps(self, data: Any) -> Any:
        prepared = self.preprocess(data)
        if self._is_explain():
            return self.explain_handle(prepared, data)
        return self.postprocess(self.inference(prepared))

    def _infer_with_profiler(self, data: Any) -> Any:
        arguments = {"record_shapes": True, **self.profiler_args}
        with torch.profiler.profile(**arguments) as profile:
            output = self._steps(data)
        _log.info("%s", profile.key_averages().table(sort_by="cpu_time_total", row_limit=10))
        return output, profile

    # ---- explaining and describing

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """What `get_insights` says; a handler defines it, usually with Captum."""
        inputs, target = None, 0
        if isinstance(raw_data[0], dict):
            inputs = raw_data[0].get("data") or raw_data[0].get("body")
            target = raw_data[0].get("target") or 0
        return self.get_insights(data_preprocess, inputs, target)

    def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> Any:
        raise NotImplementedError(f"{type(self).__name__} explains nothing: it has no get_insights(data, raw, target)")

    def _is_explain(self) -> bool:
        if self.context is not None and self.context.get_request_header(0, "explain") == "True":
            self.explain = True
            return True
        return False

    def _is_describe(self) -> bool:
        return self.context is not None and self.context.get_request_header(0, "describe") == "True"

    def describe_handle(self) -> Any:
        """What `GET /models/{model}?customized=true` adds; a handler defines it."""
        return None

    def get_device(self) -> Any:
        return self.device


def _device(gpu: Any) -> Any:
    """(map_location, the device), of cuda, xpu, mps, xla and cpu the first that is there and was given."""
    if torch is None:
        return "cpu", None
    if gpu is not None and torch.cuda.is_available():
        return "cuda", torch.device(f"cuda:{gpu}")
    if gpu is not None and hasattr(torch, "xpu") and torch.xpu.is_available():
        return "xpu", torch.device(f"xpu:{gpu}")
    mps = getattr(torch.backends, "mps", None)
    if gpu is not None and mps is not None and mps.is_available():
        return "mps", torch.device("mps")
    if XLA_AVAILABLE:
        return None, xm.xla_device()
    return "cpu", torch.device("cpu")


def _compile_options(asked: Any) -> Any:
    """Arguments of `torch.compile`, or None where it is not asked for. `pt2` in the YAML: `{compile: {enable: true,
    ...}}`; or, as before TorchServe 0.11, the name of a backend, or the arguments."""
    if asked is None:
        return None
    if isinstance(asked, str):
        return {"backend": asked}
    if not isinstance(asked, dict):
        raise ValueError(f"`pt2` in the model's YAML is a backend or a mapping, not {asked!r}")
    if "compile" in asked:
        options = dict(asked["compile"] or {})
        return options if options.pop("enable", False) is True else None
    return None if "export" in asked else dict(asked)
