"""The exporter's own work that comes to nothing, left out: the files are the same.

It reaches into torch and onnxscript, as the lock has them; tests/export/test_build.py compares the files.
"""

import copy
from functools import cache
from typing import Any

from onnxscript.rewriter import _DEFAULT_REWRITE_RULES, RewriteRule
from onnxscript.values import TracedOnnxFunction
from torch.fx import Interpreter, Node
from torch.onnx._internal.exporter import _decomp, _schemas
from torch.onnx._internal.fx.passes import type_promotion

__all__ = ["RULES", "hurry"]


def hurry() -> None:
    """Change the exporter, for this process."""
    # It parses onnxscript's 500 functions again for every graph, which takes 0.6 s, and their signatures, which takes
    # 0.1 s; once is enough.
    TracedOnnxFunction.function_ir = property(cache(TracedOnnxFunction.function_ir.fget))  # type: ignore[assignment, attr-defined]
    _schemas.op_signature_from_function = cache(_schemas.op_signature_from_function)
    # Nothing is decomposed (export/onnx_file.py), so nobody reads the table.
    _decomp.create_onnx_friendly_decomposition_table = lambda onnx_registered_ops: {}
    type_promotion._TypePromotionInterpreter = _PromotionOfWhatMixesTypes  # type: ignore[misc]


class _PromotionOfWhatMixesTypes(type_promotion._TypePromotionInterpreter):
    """Inserts conversions, and computes what they change; of all else torch knows the shape and the type already."""

    def run_node(self, n: Node) -> Any:
        with self._set_current_node(n):
            if rule := type_promotion.get_type_promotion_rule(n, self.type_promotion_table):
                self._maybe_promote_node(n, rule)
        return n.meta["val"] if "val" in n.meta else Interpreter.run_node(self, n)


def _tried_at_its_operator(rule: RewriteRule) -> RewriteRule:
    """Return a rule that is tried only at nodes with the operator that its pattern ends in.

    Trying each of 80 rules at each node takes a sixth of an export.
    """
    quick, (last, *_) = copy.copy(rule), rule._target_pattern.output_nodes
    whole = quick.try_rewrite

    def try_rewrite(model: Any, graph: Any, node: Any, **options: Any) -> Any:
        return whole(model, graph, node, **options) if last.op.matches(node.op_type) else None

    quick.try_rewrite = try_rewrite  # type: ignore[assignment, method-assign]
    return quick


# onnxscript's rules by default.
RULES = [*map(_tried_at_its_operator, _DEFAULT_REWRITE_RULES)]
