"""Export a torch module to the bytes of one ONNX file, with its metadata."""

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import onnx
import torch
from onnx_ir import Model, Node
from onnx_ir.passes import Sequential
from onnx_ir.passes import common as passes
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import rewrite
from onnxscript.values import TracedOnnxFunction
from torch import Tensor, nn
from torch.onnx._internal.exporter import _schemas
from torch.utils._pytree import tree_map

from bundle.graph_contract import TensorSpec
from export.graph import fp16, int8, joined

__all__ = ["to_onnx"]

# The exporter parses onnxscript's 500 functions again for every graph, which takes 0.6 s, and their signatures, which
# takes 0.1 s; once is enough.
TracedOnnxFunction.function_ir = property(cache(TracedOnnxFunction.function_ir.fget))  # type: ignore[assignment, attr-defined]
_schemas.op_signature_from_function = cache(_schemas.op_signature_from_function)

OPSET = 20  # graphs for a device have another one (export/unroll.py)


def to_onnx(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    metadata: dict[str, str],
) -> bytes:
    """Export a module whose `forward` takes `example` and returns `outputs`, both in the given order.

    Sizes that a TensorSpec names stay variable; in the example they must be at least 2, or torch fixes them.
    """
    shapes = _dynamic_shapes(module, inputs)
    variable = tree_map(lambda name: torch.export.Dim.DYNAMIC, shapes)
    with torch.no_grad(), _quiet_exporter():
        traced = torch.export.export(module.eval(), example, dynamic_shapes=variable, strict=False)
        # Each of our operators has a translation, so nothing is to decompose; the attempt would trace everything again.
        # An operator without one, such as `Tensor.to`, fails here: see export/graph/fp16.py.
        traced.run_decompositions = lambda table: traced
        program = torch.onnx.export(
            traced,
            dynamo=True,
            verbose=False,
            optimize=False,
            opset_version=OPSET,
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            dynamic_shapes=shapes,
            custom_translation_table=fp16.TRANSLATIONS | int8.TRANSLATIONS | joined.TRANSLATIONS,
        )
    assert program is not None
    _optimize(program.model)
    model = program.model_proto
    _move_int8_into_loops(model.graph)
    _name_shapes(model, (*inputs, *outputs))
    onnx.helper.set_model_props(model, metadata)
    model.producer_name, model.producer_version = "charstream", ""
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _optimize(model: Model) -> None:
    """Optimise as the exporter does by default, except that equal weights stay apart, because `verify` finds them by
    name, and products of constants are not folded."""
    passes.InlinePass()(model)
    for _ in range(2):
        fold_constants_ir(model, onnx_shape_inference=True, should_fold=_fold_all_but_products)
        rewrite(model)
    Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
        # Of constants that were lifted from the loops and turned out to be equal, one is read and the others by nobody.
        passes.RemoveUnusedNodesPass(),
        # The exporter records each node's place in the source, with paths of the exporting machine.
        passes.ClearMetadataAndDocStringPass(),
    )(model)


def _fold_all_but_products(node: Node) -> bool | None:
    """Fold constants, except the product of two scales (see export/graph/int8.py)."""
    return False if node.op_type == "Mul" else None


def _move_int8_into_loops(graph: onnx.GraphProto) -> None:
    """Move weights of 8 bits into the body that uses them.

    onnxruntime can rewrite such weights for slower instructions that are exact without the pair bound
    (server/runtime/host_runner.py), but only if they lie in the same graph as their matmul.
    """
    for body in (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        used = {name for node in body.node for name in node.input}
        for tensor in [tensor for tensor in graph.initializer if tensor.name in used]:
            if tensor.data_type == onnx.TensorProto.INT8:
                body.initializer.append(tensor)
                graph.initializer.remove(tensor)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter, which warns of its own internals and of torchvision's absence: no user can act on that."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _dynamic_shapes(module: nn.Module, inputs: Sequence[TensorSpec]) -> tuple[object, ...]:
    shapes = [{axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in inputs]
    # `forward` takes the state as `*state`, which torch wants as one tuple after the named parameters.
    named = sum(p.kind is not p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values())
    return (*shapes[:named], *([tuple(shapes[named:])] if len(shapes) > named else ()))


def _name_shapes(model: onnx.ModelProto, specs: Sequence[TensorSpec]) -> None:
    """Write the shapes of the contract: the exporter may lose the name of an output's variable size."""
    expected = {spec.name: spec for spec in specs}
    for value in (*model.graph.input, *model.graph.output):
        for dim, size in zip(value.type.tensor_type.shape.dim, expected[value.name].shape, strict=True):
            if isinstance(size, str):
                dim.dim_param = size
