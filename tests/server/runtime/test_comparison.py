"""A device that computes something else than the host is refused when the model is loaded: here one that is played."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bundle.manifest import Manifest, Precision
from bundle.read import Bundle, decode_file, full_file
from server.engine.plan import Area
from server.runtime import load as loading
from server.runtime.comparison import Comparison
from server.runtime.device_runner import Bound, Buffer, DeviceRunner
from server.runtime.device_states import DeviceStore
from server.runtime.host_runner import CannotRun
from server.runtime.load import Loaded, device_graphs, load
from server.settings import ServerSettings

Files = tuple[Manifest, dict[str, bytes]]
Change = Callable[[np.ndarray], np.ndarray]
PRECISIONS: tuple[Precision, ...] = ("fp32-cuda", "fp16-cuda")


@pytest.fixture(scope="module")
def bundle(device_files: Files) -> Bundle:
    return Bundle(Path(), device_files[0], "", device_files[1])


def settings_for(precision: str) -> ServerSettings:
    return ServerSettings.model_validate({"provider": "cpu", "precision": precision, "max_rows": 4})


def with_weights(bundle: Bundle, file: str, part: str, change: Change) -> Bundle:
    """Return the bundle with other numbers in one weight of one file."""
    model = onnx.load_from_string(bundle.files[file])
    for tensor in model.graph.initializer:
        if tensor.name.endswith(part):
            changed = change(onnx.numpy_helper.to_array(tensor).copy())
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
    return replace(bundle, files={**bundle.files, file: model.SerializeToString()})


def a_column_a_tenth_too_large(values: np.ndarray) -> np.ndarray:
    values[..., 7] = (values[..., 7].astype(np.float32) * 1.1).astype(values.dtype)
    return values


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_right_device_is_taken(bundle: Bundle, precision: Precision) -> None:
    """Without the files that a successor of an engine process does not get."""
    names = loading.files_to_load(precision)
    few = replace(bundle, files={name: data for name, data in bundle.files.items() if name in names})
    loaded = load(few, settings_for(precision))
    assert loaded.precision == precision
    loaded.store.close()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_device_that_computes_zeros_is_refused(
    bundle: Bundle, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Zeros(Buffer):
        def read(self) -> Any:
            return np.zeros_like(super().read())

    class Broken(DeviceRunner):
        def buffer(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Buffer:
            made = super().buffer(shape, dtype)
            made.__class__ = Zeros
            return made

    monkeypatch.setattr(loading, "DeviceRunner", Broken)
    with pytest.raises(CannotRun, match="does not go on from forced characters"):
        load(bundle, settings_for(precision))


@pytest.mark.parametrize(
    ("precision", "kind", "part"),
    [
        *product(PRECISIONS, ("decode", "full"), ("layers.0.table", "layers.0.hidden.weight", "layers.1.both.weight")),
        *product(PRECISIONS, ("full",), ("head.weight",)),
    ],
)
def test_one_column_that_is_a_tenth_too_large_is_refused(
    bundle: Bundle, precision: Precision, kind: str, part: str
) -> None:
    """In any of the graphs."""
    file = {"decode": decode_file, "full": full_file}[kind](precision, 16)
    wrong = with_weights(bundle, file, part, a_column_a_tenth_too_large)
    with pytest.raises(CannotRun, match=rf"{kind}, 16 steps, 4 rows, .* in one column \d+"):
        load(wrong, settings_for(precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_outcomes_that_probabilities_rule_out_are_refused(bundle: Bundle, precision: Precision) -> None:
    """The decode graph tells no probabilities: what it samples has to fit those of the host."""
    wrong = with_weights(bundle, decode_file(precision, 4), "head.weight", lambda values: -values)
    with pytest.raises(CannotRun, match=r"the device samples \d+ of 512 characters that the host's probabilities"):
        load(wrong, settings_for(precision))


def to_10_bits(values: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(mantissa * 2048) / 2048, exponent).astype(values.dtype)


def test_tf32_is_refused_where_float32_was_promised_and_taken_where_it_was_asked_for(bundle: Bundle) -> None:
    """Of a device with TF32 the weights, at least, have 10 bits."""
    files = dict(bundle.files)
    for steps, file in product((4, 16, 64), (decode_file, full_file)):
        for part in ("hidden.weight", "both.weight", "head.weight"):
            name = file("fp32-cuda", steps)
            files[name] = with_weights(replace(bundle, files=files), name, part, to_10_bits).files[name]
    rounded = replace(bundle, files=files)
    with pytest.raises(
        CannotRun, match=r"as far from the host as weights of 16 bits would be, .*fp32-cuda at most 0\.4"
    ):
        load(rounded, settings_for("fp32-cuda"))
    runner = DeviceRunner(device_graphs(files, "fp32-cuda"), threads=1, provider="cpu", tf32=True)
    states = DeviceStore(runner, bundle.manifest, (4,)).states[Area.DECODE]
    Comparison(rounded, "fp32-cuda", rounds=True).check(states, True, 4, 16, 4)


def test_a_captured_run_that_differs_from_a_plain_one_ends_the_warm_up(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a graph replayed what is gone."""
    stale = list[Buffer]()

    class Stale(Bound):
        def run(self, *, captured: bool) -> None:
            super().run(captured=captured)
            if captured:
                for buffer in stale:
                    buffer.write(np.zeros_like(buffer.read()))

    class Broken(DeviceRunner):
        def bind(self, full: bool, steps: int, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Bound:
            stale.append(outputs["tokens"])
            return Stale(self._sessions[full, steps], inputs, outputs, number=-1)

    monkeypatch.setattr(loading, "DeviceRunner", Broken)
    loaded = load(bundle, settings_for("fp32-cuda"))
    with pytest.raises(
        CannotRun, match=r"a captured run \(.*steps, 4 rows\) computes other characters than a plain one"
    ):
        loaded.store.states[Area.DECODE].warm_up(lambda *what: None)


def test_of_two_precisions_the_faster_one_is_served(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(precision: Precision, step_seconds: float) -> Loaded:
        found = load(bundle, settings_for(precision))
        assert isinstance(found.store, DeviceStore)
        monkeypatch.setattr(found.store.device, "step_seconds", lambda: step_seconds)
        return found

    for half, single, best in ((2e-5, 1e-5, "fp32-cuda"), (1.05e-5, 1e-5, "fp16-cuda"), (1e-5, 2e-5, "fp16-cuda")):
        assert loading._faster(loaded("fp16-cuda", half), loaded("fp32-cuda", single), "tiny").precision == best


def test_the_time_of_a_step_is_measured(bundle: Bundle) -> None:
    store = load(bundle, settings_for("fp16-cuda")).store
    assert isinstance(store, DeviceStore)
    assert 0 < store.device.step_seconds() < 1
