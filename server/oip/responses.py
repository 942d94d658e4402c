"""Responses of the Open Inference Protocol: the tensors that were asked for, in the form that was asked for."""

from collections.abc import Collection, Sequence

from protos import inference_pb2 as oip
from server.errors import InvalidField, join_names, quote
from server.oip.tensors import Tensor, write_tensors

__all__ = ["FINAL", "ResponseWriter"]

FINAL = "triton_final_response"
WANTS_EMPTY_FINAL = "triton_enable_empty_final_response"


class ResponseWriter:
    """Makes the responses to one request.

    Args:
        outputs: the names of the model's outputs.

    Attributes:
        version: of the model that answers, as soon as it is known.
        wants_empty_final: whether a response without tensors shall follow the last one.

    Raises:
        InvalidField: an output is asked for that the model does not have, or in a form that is not offered.
    """

    def __init__(self, request: oip.ModelInferRequest, outputs: Collection[str]) -> None:
        self._request, self.version = request, request.model_version
        self._wanted = {output.name for output in request.outputs}
        self._raw = bool(request.raw_input_contents)
        self.wants_empty_final = (
            request.parameters[WANTS_EMPTY_FINAL].bool_param if (WANTS_EMPTY_FINAL in request.parameters) else False
        )
        unknown = sorted(self._wanted.difference(outputs))
        if unknown:
            names = join_names(list(outputs))
            raise InvalidField("outputs", f"{quote(unknown[0])} is no output of the model; there are {names}")
        for output in request.outputs:
            if output.parameters.keys() - {"binary_data"}:
                parameter = min(output.parameters.keys() - {"binary_data"})
                raise InvalidField("outputs", f"{output.name} has the parameter {quote(parameter)}, none is known")

    def wants(self, name: str) -> bool:
        """Return whether the output was asked for by name."""
        return name in self._wanted

    def response(self, tensors: Sequence[Tensor]) -> oip.ModelInferResponse:
        """Return the response with these tensors, or with those of them that were asked for."""
        request = self._request
        response = oip.ModelInferResponse(model_name=request.model_name, model_version=self.version, id=request.id)
        found = [tensor for tensor in tensors if not self._wanted or tensor.name in self._wanted]
        write_tensors(response, found, raw=self._raw)
        return response

    def part(self, tensors: Sequence[Tensor], *, final: bool) -> oip.ModelStreamInferResponse:
        """Return a response of a stream."""
        response = self.response(tensors)
        response.parameters[FINAL].bool_param = final
        return oip.ModelStreamInferResponse(infer_response=response)
