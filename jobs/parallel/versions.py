"""What the torch of one stack calls otherwise than that of another, or does not have: here, and nowhere else.

images/stacks/cuda13 has torch 2.14; cuda12, for GPUs that CUDA 13 does not drive any more, 2.7. Each function asks for
what is there, not for a number. tests/torch-names.txt has every name of torch that the other files use, which
each stack must have, and `tests/run-jobs --stack=cuda12` runs the tests (make test-more).
"""

import importlib.util
import inspect
import os
import pickle
import traceback
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from jobs.cli.errors import Mistake
from jobs.parallel.mesh import Mesh

REPLICATE = "torch.distributed._composable.replicate_with_fsdp"  # came when the rest of it had become usable


def all_gather(result: torch.Tensor, source: torch.Tensor, group: Any = None) -> None:
    """Every rank's `source`, one after the other, in `result`."""
    known = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"
    getattr(dist, known)(result, source, group=group)


def reduce_scatter(result: torch.Tensor, source: torch.Tensor, group: Any = None) -> None:
    """This rank's part of the sum of every rank's `source`."""
    known = "reduce_scatter_single" if hasattr(dist, "reduce_scatter_single") else "reduce_scatter_tensor"
    getattr(dist, known)(result, source, group=group)


def set_timeout(timeout: timedelta) -> None:
    """Of all collectives to come in the group of all ranks."""
    if hasattr(dist, "set_timeout"):
        dist.set_timeout(timeout)
    else:
        dist.distributed_c10d._set_pg_timeout(timeout)


def connection(timeout_s: float) -> Any:
    """Another connection to the store where the ranks met, for a thread of its own."""
    from torch.distributed.distributed_c10d import _get_default_store

    store = _get_default_store()
    if hasattr(store, "clone"):
        own = store.clone()
    else:
        own = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    own.set_timeout(timedelta(seconds=timeout_s))
    return own


def exceptions_travel() -> None:
    """Before checkpoints are written: torch 2.7 sends what went wrong with its stack, which Python 3.13 cannot pickle.

    Then it goes without: a full disk is told as that.
    """
    from torch.distributed.checkpoint import utils

    try:
        raise OSError
    except OSError as error:
        try:
            pickle.dumps(utils._wrap_exception(error))
        except TypeError:
            vars(utils)["_wrap_exception"] = lambda exception: (exception, traceback.StackSummary())


def allow(mesh: Mesh) -> None:
    """Raises Mistake for a mesh that this torch cannot compute on: its DTensors and schedules fail half-way there."""
    simple = mesh.plain or (mesh.form == "fsdp" and mesh.world == mesh.shard)
    if not simple and importlib.util.find_spec(REPLICATE) is None:
        raise Mistake(
            f"mesh: torch {torch.__version__} of this stack knows ddp, and fsdp over all ranks; "
            f"{mesh.line()} needs a newer one (images/stacks/cuda13)"
        )


def averages_on_cpu() -> None:
    """Before FSDP2 is used: that of torch 2.7 asks gloo for a mean, which gives the sum without a word.

    Then it is made to add and divide, as it does for fp16.
    """
    from torch.distributed.fsdp._fully_shard import _fsdp_collectives as collectives

    known: Any = getattr(collectives, "_get_gradient_divide_factors", None)
    if known is None or list(inspect.signature(known).parameters)[2:] != ["reduce_dtype", "device_type"]:
        return

    def factors(scatter: Any, reduce: Any, dtype: torch.dtype, device: str = "") -> Any:
        if device != "cpu":
            return known(scatter, reduce, dtype, device)
        return 1.0, float(scatter.size() * (reduce.size() if reduce else 1))

    vars(collectives)[known.__name__] = factors
