"""What autograd keeps of a step, counted with tensors that have a shape, a type and a device, but no numbers."""

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from jobs.model import precision as precisions


def kept(model: Any, shape: Any, precision: str) -> int:
    """Bytes that are kept for the backward pass of one sequence; weights aside, each tensor once."""
    seen: dict[int, Any] = {}  # by storage, which is held so that no other takes its place

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage._cdata] = storage
        return tensor

    with FakeTensorMode():
        network = model.build(shape)
        precisions.cast(network, precision, torch.device("cpu"))
        inputs, targets = model.batch(torch.zeros(1, shape.context + 1, dtype=torch.long))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model.loss(network(inputs), targets)
        own = {each.untyped_storage()._cdata for each in (*network.parameters(), *network.buffers())}
        total = sum(storage.nbytes() for at, storage in seen.items() if at not in own)
        del loss
    return int(total)
