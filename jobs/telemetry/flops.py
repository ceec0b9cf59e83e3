"""How many floating point operations a model needs, how many its device could do, and the share it reached (MFU).

Model FLOPs utilisation as PaLM defines it (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): what the model
needs and not what the program computes, so that activation checkpointing, which computes more, does not raise it.
"""

from collections.abc import Mapping

from jobs.config import Model

VOCABULARY = 256  # bytes; jobs/data/shards.py, which needs numpy

# Dense peaks of one GPU in TFLOP/s, by the name that the driver gives it; as in hardware/*.yaml, with their sources.
DEVICES: dict[str, dict[str, float]] = {
    "V100-SXM2": {"fp32": 15.7, "fp16": 125},
    "A100-SXM4": {"fp32": 19.5, "tf32": 156, "bf16": 312, "fp16": 312},
    "H100 80GB HBM3": {"fp32": 67, "tf32": 494.7, "bf16": 989.4, "fp16": 989.4, "fp8": 1978.9},
    "H200": {"fp32": 67, "tf32": 494.7, "bf16": 989.4, "fp16": 989.4, "fp8": 1978.9},
    "B200": {"fp32": 75, "tf32": 1125, "bf16": 2250, "fp16": 2250, "fp8": 4500},
    "L4": {"fp32": 30.3, "tf32": 60, "bf16": 121, "fp16": 121, "fp8": 242.5},
    "L40S": {"fp32": 91.6, "tf32": 183, "bf16": 362, "fp16": 362, "fp8": 733},
}


def weights(shape: Model) -> int:
    """Weights that each token is multiplied with: matrices of the blocks and the head. Looking up is no product."""
    return 12 * shape.layers * shape.width**2 + VOCABULARY * shape.width


def per_token(shape: Model) -> int:
    """Operations to train on one token: 6 N + 12 L H Q T.

    2 for each weight forward and 4 backward; attention's two products of `width` x `context`, forward and backward,
    counted in full although a causal kernel skips half of them: so figures compare with published ones.
    """
    return 6 * weights(shape) + 12 * shape.layers * shape.width * shape.context


def peak(device: str, precision: str, profile: Mapping[str, float]) -> float | None:
    """Operations per second that one device could do: the profile's figure, else the table's, else None.

    device: its name as the driver says it ("NVIDIA H100 80GB HBM3"), or "cpu", whose peak nobody states.
    precision: fp32, tf32, bf16, fp16 or fp8, of the products.
    """
    if device == "cpu":
        return None
    model = device.removeprefix("NVIDIA ").removeprefix("Tesla ")
    known = next((DEVICES[name] for name in DEVICES if f"{model} ".startswith((f"{name} ", f"{name}-"))), {})
    tflops = profile.get(precision) or known.get(precision)
    return None if tflops is None else tflops * 1e12


def mfu(tokens_per_s: float, shape: Model, peak_each: float | None, devices: int) -> float | None:
    """Share of the devices' peak that the model's own operations made; None where the peak is unknown."""
    if peak_each is None:
        return None
    return tokens_per_s * per_token(shape) / (peak_each * devices)
