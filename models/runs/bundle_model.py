"""A trained model out of its bundle: step.onnx has all of its weights, in another layout than training's."""

from pathlib import Path

import onnx
import torch
from torch import Tensor

from bundle.manifest import Manifest
from bundle.pretrained import locate
from bundle.read import MANIFEST, STEP, BundleError, read_bundle
from models.network.char_lm import CharLM
from models.network.config import ModelConfig
from models.training.checkpoint import CheckpointError, Trained, load

__all__ = ["load_model", "model_of_bundle"]


def load_model(path: Path) -> Trained:
    """Read a trained model: a run, one of its checkpoints, a bundle, or `pretrained`, which comes with charstream.

    Raises:
        CheckpointError: there is none, or a foreign or damaged one.
    """
    path = locate(path)
    if not (path / MANIFEST).exists():
        return load(path)
    try:
        bundle = read_bundle(path)
    except BundleError as error:
        raise CheckpointError(str(error)) from error
    return model_of_bundle(bundle.manifest, bundle.files, path)


def model_of_bundle(manifest: Manifest, files: dict[str, bytes], path: Path = Path(STEP)) -> Trained:
    """Return the model of a bundle's step.onnx, which computes the same.

    It reads unit vectors, as the graph's table has the embedding and what follows it in one; a batch normalisation has
    become part of the weights around it.

    Args:
        path: for errors.

    Raises:
        CheckpointError: the file's weights are not named as charstream names them.
    """
    shape = manifest.model.model_dump()
    config = ModelConfig(vocab=len(manifest.symbols), input="onehot", embedding=1, **shape)
    model = CharLM(config)
    weights = {
        tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load_from_string(files[STEP]).graph.initializer
    }
    try:
        model.load_state_dict(_state_of(weights, config))
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {STEP} has other weights than this version of charstream writes") from error
    return Trained(model.eval(), manifest.vocabulary, manifest.start_text, manifest.training)


def _state_of(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return the weights as CharLM has them; matrices of the graph are transposed. Raises KeyError."""
    state = {"head.weight": weights["head.weight"].T, "head.bias": weights["head.bias"]}
    state |= {name: tensor for name, tensor in weights.items() if name.startswith("norms.")}
    for number in range(config.layers):
        name = f"layers.{number}"
        layer = (_further_layer if number else _first_layer)(weights, name, config)
        state |= {f"{name}.{part}": tensor for part, tensor in layer.items()}
        if config.activation == "prelu":
            state[f"{name}.phi.weight"] = weights[f"phis.{number}.slope"]
    return state


def _first_layer(weights: dict[str, Tensor], name: str, config: ModelConfig) -> dict[str, Tensor]:
    """Join the gates' tables, which hold the biases, and their matrices; a GRU's candidate has a second bias."""
    gates = range(config.gates)
    of_h = [weights[f"{name}.hidden.{gate}.weight"].T for gate in gates]
    bias = f"{name}.hidden.{config.gates - 1}.bias"
    layer = {
        "weight_ih": torch.cat([weights[f"{name}.tables.{gate}"].T for gate in gates]),
        "weight_hh": torch.cat(of_h),
        "bias_ih": torch.zeros(config.gates * config.hidden),
    }
    return layer | _gain(weights, name, config) | _second_biases(weights, bias, name, config)


def _further_layer(weights: dict[str, Tensor], name: str, config: ModelConfig) -> dict[str, Tensor]:
    """Part the matrices that read input and hidden state side by side; other gates have one for each."""
    apart = config.gates if config.recurrent_norm == "layer" else int(config.cell == "gru")
    together = config.gates - apart
    both = [weights[f"{name}.both.{gate}.weight"].T.split(config.output, 1) for gate in range(together)]
    biases = [weights[f"{name}.both.{gate}.bias"] for gate in range(together)]
    for gate in range(apart):
        both.append((weights[f"{name}.of_x.{gate}.weight"].T, weights[f"{name}.of_h.{gate}.weight"].T))
        biases.append(weights[f"{name}.of_x.{gate}.bias"])
    of_x, of_h = zip(*both, strict=True)
    layer = {"weight_ih": torch.cat(of_x), "weight_hh": torch.cat(of_h), "bias_ih": torch.cat(biases)}
    return layer | _gain(weights, name, config) | _second_biases(weights, f"{name}.of_h.0.bias", name, config)


def _gain(weights: dict[str, Tensor], name: str, config: ModelConfig) -> dict[str, Tensor]:
    """Join the gains of a layer's normalised products, if they are normalised."""
    if config.recurrent_norm == "none":
        return {}
    return {"gain": torch.cat([weights[f"{name}.norms.{gate}.weight"] for gate in range(config.gates)])}


def _second_biases(weights: dict[str, Tensor], bias: str, name: str, config: ModelConfig) -> dict[str, Tensor]:
    """Return the second bias of a GRU's candidate, which the normalisation adds where there is one."""
    if config.cell != "gru":
        return {}
    of_candidate = weights[f"{name}.norms.{config.gates - 1}.bias" if config.recurrent_norm == "layer" else bias]
    return {"bias_hh": torch.cat([torch.zeros(2 * config.hidden), of_candidate])}
