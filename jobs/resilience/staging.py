"""The copy of a state that a save keeps the training waiting for, in the host's memory; the rest goes on behind it.

torch's own DefaultStager makes the same, but goes through every number of a state beside its tensors, and copies
storages: a quarter more than the bytes themselves take (docs/measured.md).
"""

from typing import Any

import torch
from torch import Tensor

State = dict[str, dict[str, Any]]


class Stage:
    """Buffers that are made once. A copy holds until the next one is asked for."""

    def __init__(self, gpu: bool) -> None:
        """gpu: the buffers are pinned, and filled by the card while the host prepares the next one."""
        self._gpu = gpu
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def copy(self, state: State) -> State:
        """The same state with its tensors in the host's memory, where nobody changes them."""
        staged = {
            part: {name: self._copy((part, name), value) for name, value in values.items()}
            for part, values in state.items()
        }
        if self._gpu:
            torch.cuda.synchronize()
        return staged

    def _copy(self, key: tuple[str, str], value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value  # a number, or a tuple of them
        if hasattr(value, "to_local"):  # of a DTensor this rank's part, in a DTensor that is cut alike
            from torch.distributed.tensor import DTensor

            return DTensor(self._copy(key, value.to_local()), value._spec, requires_grad=False)
        buffer = self._buffers.get(key)
        if buffer is None:
            pinned = self._gpu and value.is_cuda
            buffer = self._buffers[key] = torch.empty_like(value, device="cpu", pin_memory=pinned)
        return buffer.copy_(value, non_blocking=self._gpu)
