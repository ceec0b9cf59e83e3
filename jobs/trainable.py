"""What train.py trains: the same few calls for every mesh.

    rows -> step_loss -> clip -> step          and state / load_state for the checkpoint

A rank's loss is its share: the mean over all ranks is the loss of the global batch, whichever of them have a
loss at all. `model` has this rank's parameters under the names that they have in a model that is not split,
so a checkpoint of one mesh loads on another: torch.distributed.checkpoint brings each rank its parts.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from jobs.config import Config
from jobs.model import of, optim, precision
from jobs.parallel import spread
from jobs.parallel.mesh import Mesh
from jobs.parallel.ranks import Ranks


class Trainable:
    """A model on its mesh, and its optimiser. Every method is called by all ranks."""

    def __init__(self, config: Config, mesh: Mesh, ranks: Ranks) -> None:
        """The weights are those of the seed, the same on every mesh. Raises Mistake where a device cannot do it."""
        precision.check(config.compute, ranks.device)
        precision.use(config.compute.precision)
        self.mesh, self.ranks, self.accumulate = mesh, ranks, config.compute.accumulate
        self.contract = of(config.model)
        self.model = self.contract.build(config.model)
        layout = spread.Layout(mesh, ranks)
        self._mine: Tensor | None = None  # positions of a sequence, where ranks split it
        if mesh.context > 1:
            from jobs.parallel import context

            at = mesh.coordinates(ranks.rank)["context"]
            self._mine = context.positions(config.model.context, at, mesh.context).to(ranks.device)
        self._pipeline: Any = None
        if mesh.pipeline > 1:
            from jobs.parallel import pipeline

            self._pipeline = pipeline.Pipeline(self.model, config, layout)
            self._stages = layout.devices["pipeline"].get_group()
        else:
            self._module: Any = spread.apply(self.model, self.contract, layout, config)
        self.optimizer = optim.make(self.model, config.train, self.contract.decays, config.compute.fused)
        self.scaler = precision.Scaler(config.compute.precision == "fp16")
        self._norm = torch.zeros(())

    @property
    def ddp(self) -> Any:
        """The DistributedDataParallel that trains; None on a mesh that has none."""
        module = None if self._pipeline else self._module
        return module if hasattr(module, "_get_ddp_logging_data") else None

    def step_loss(self, rows: Tensor) -> Tensor:
        """Forward and backward of this rank's rows (batch, context + 1). Returns its share of the loss."""
        if self._pipeline:
            return self._through_pipeline(rows, backward=True)
        share = self.scaler.scale / self.accumulate
        losses = []
        for number, part in enumerate(rows.chunk(self.accumulate)):
            with self._averaging(number == self.accumulate - 1):
                inputs, targets = self._split(part)
                loss = self.contract.loss(self._module(inputs), targets)
                (loss if share == 1 else loss * share).backward()
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def clip(self, limit: float) -> Tensor:
        """Scale the gradient of all weights of all ranks to a norm of at most `limit`. Returns the norm before."""
        weights = [weight for weight in self.model.parameters() if weight.grad is not None]
        gradients = [weight.grad for weight in weights]
        self.scaler.unscale(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        if hasattr(norm, "full_tensor"):  # of this rank's parts of matrices: add up the others'
            norm = norm.full_tensor()
        if self._pipeline:  # and of other blocks
            square = norm.square()
            dist.all_reduce(square, group=self._stages)
            norm = square.sqrt()
        torch.nn.utils.clip_grads_with_norm_(weights, limit, norm)
        self._norm = norm
        return norm

    def step(self) -> None:
        """Take the optimiser's step with the gradient as it is; with fp16 only if that is finite."""
        if self.scaler.good_step(self._norm):
            self.optimizer.step()
        self.skip()

    def skip(self) -> None:
        """Leave the step out: weights and moments stay, the gradient is dropped."""
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def evaluate(self, rows: Tensor) -> Tensor:
        """This rank's share of the loss of rows, as many as in a step; nothing is learned, and nothing dropped out."""
        self.model.eval()
        try:
            if self._pipeline:
                return self._through_pipeline(rows, backward=False)
            inputs, targets = self._split(rows)
            return self.contract.loss(self._module(inputs), targets)
        finally:
            self.model.train()

    def state(self) -> dict[str, Any]:
        """Weights and optimiser for torch.distributed.checkpoint, each under its own name."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(flatten_optimizer_state_dict=True)
        weights, moments = get_state_dict(self.model, self.optimizer, options=options)
        state = {"model": weights, "optimizer": moments}
        if self.scaler.enabled:
            state["scaler"] = {"scale": self.scaler.scale, "good": self.scaler.good}
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned, once a checkpoint was read into it."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        decays = [group["weight_decay"] for group in self.optimizer.param_groups]
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=StateDictOptions(flatten_optimizer_state_dict=True),
        )
        for group, decay in zip(self.optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay  # the configuration's, not that of the start before
        if "scaler" in state:
            self.scaler.scale, self.scaler.good = state["scaler"]["scale"], state["scaler"]["good"]

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What the model reads and what it is to say, (batch, positions of this rank) each."""
        inputs, targets = self.contract.batch(rows)
        return (inputs, targets) if self._mine is None else (inputs[:, self._mine], targets[:, self._mine])

    def _averaging(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are averaged over ranks in the backward pass of the last of the accumulated parts."""
        if hasattr(self._module, "no_sync"):
            return nullcontext() if last else self._module.no_sync()
        if hasattr(self._module, "set_requires_gradient_sync"):
            self._module.set_requires_gradient_sync(last)
        return nullcontext()

    def _through_pipeline(self, rows: Tensor, backward: bool) -> Tensor:
        inputs, targets = self._split(rows)
        loss: Tensor = self._pipeline.run(inputs, targets, self.scaler.scale, backward)
        return loss * self.mesh.pipeline  # the other stages have none
