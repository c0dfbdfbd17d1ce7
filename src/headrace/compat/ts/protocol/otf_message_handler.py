"""Where streaming was imported from before TorchServe 0.8."""

from ts.handler_utils.utils import send_intermediate_predict_response

__all__ = ["send_intermediate_predict_response"]
