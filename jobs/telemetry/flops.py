"""How many floating point operations a device could do, and the share of them that a model reached (MFU).

Model FLOPs utilisation as PaLM defines it (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): what the model
needs and not what the program computes, so that activation checkpointing, which computes more, does not raise it.
"""

from collections.abc import Mapping

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


def mfu(tokens_per_s: float, per_token: float, peak_each: float, devices: int) -> float:
    """Share of the devices' peak that the model's own operations made: `per_token`, as its contract says."""
    return tokens_per_s * per_token / (peak_each * devices)
