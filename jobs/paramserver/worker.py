"""A worker: takes a ticket and the weights, brings the gradient of its part, until the server says it is the end."""

import hashlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import torch

from jobs.cli.errors import Failure
from jobs.data import shards
from jobs.parallel import ranks as everyone
from jobs.parallel.mesh import Mesh
from jobs.paramserver import wire
from jobs.paramserver.config import Config
from jobs.trainable import Trainable


def digest(config: Config, corpus: str) -> bytes:
    """32 bytes that are the same for server and workers that train the same model on the same data."""
    facts = {**config.trajectory(), "data": corpus}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


def alone() -> None:
    """Let this process be a world of its own, whatever the launcher made it: nobody here meets anybody."""
    os.environ.update({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"})
    os.environ.pop("MASTER_PORT", None)


def corpus(config: Config) -> Path:
    """The prepared data, checked."""
    where = shards.prepare(
        Path(config.data.folder), shard_bytes=config.data.shard_bytes, validation=config.data.validation
    )
    shards.check(where)
    return where


def work(config: Config, address: tuple[str, int]) -> None:
    """Work for the server at `address` to its end. Raises Failure when it refuses, or is gone before the end."""
    alone()
    folder = corpus(config)
    torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.train.seed % 2**64)
    trained = Trainable(config, Mesh.of(config, 1), everyone.start(config.run.peer_timeout_s))
    split = shards.Split(folder, "train", config.model.context)
    order = shards.Order(len(split), config.train.seed)
    try:
        with socket.create_connection(address, timeout=config.run.peer_timeout_s) as server:
            server.settimeout(None)  # a ticket may be long in coming
            wire.tune(server, config.run.peer_timeout_s)
            wire.send_hello(server, digest(config, folder.name), f"{socket.gethostname()}/{os.getpid()}")
            _tickets(config, server, trained, split, order)
    except OSError as error:
        raise Failure(f"the server at {address[0]}:{address[1]} is gone: {error}") from error
    finally:
        everyone.end()


def _tickets(
    config: Config, server: socket.socket, trained: Trainable, split: shards.Split, order: shards.Order
) -> None:
    parameters = list(trained.model.parameters())
    device = parameters[0].device
    weights = torch.empty(sum(each.numel() for each in parameters))
    while True:
        answer = wire.receive_answer(server, numbers(weights))
        if answer is None:
            return
        if isinstance(answer, str):
            raise Failure(f"the server refuses this worker: {answer}")
        ticket, parts, version = answer
        start = time.perf_counter()
        rows = order.batch(ticket.step, config.train.batch, rank=ticket.part, ranks=parts)
        batch = torch.from_numpy(split.windows(rows)).to(device).long()
        data_s = time.perf_counter() - start
        with torch.no_grad():
            for parameter, part in zip(parameters, pieces(weights, parameters), strict=True):
                parameter.copy_(part)
        loss = trained.step_loss(batch).item()
        gradient = flat([parameter.grad for parameter in parameters])
        trained.optimizer.zero_grad(set_to_none=True)
        wire.send_result(server, wire.Result(ticket, version, loss, data_s), numbers(gradient))


def flat(tensors: list[Any]) -> torch.Tensor:
    """All elements of tensors, one after the other, as float32 on CPU."""
    return torch.cat([each.detach().flatten() for each in tensors]).float().cpu()


def pieces(vector: torch.Tensor, like: list[Any]) -> list[torch.Tensor]:
    """What `flat` made one, in the shapes of `like`."""
    parts = vector.split([each.numel() for each in like])
    return [part.view(each.shape) for part, each in zip(parts, like, strict=True)]


def numbers(vector: torch.Tensor) -> memoryview:
    """The bytes of a vector on CPU, without a copy."""
    return memoryview(vector.numpy()).cast("B")
