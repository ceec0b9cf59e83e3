"""A small byte-level GPT: pre-norm blocks, rotary positions, squared ReLU, no biases."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.model.contract import VOCABULARY
from jobs.model.gpt import Shape


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of each position to itself and those before it; all (batch, heads, time, size)."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Projections(nn.Module):
    """Queries, keys and values in one product. The weight is (3, width, width), so that it splits by heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        one = nn.Linear(width, 3 * width, bias=False)
        self.weight = nn.Parameter(one.weight.detach().view(3, width, width))

    def forward(self, x: Tensor) -> Tensor:
        # Where tensor parallelism split the weight, this rank's heads are computed as an ordinary product.
        weight = self.weight.to_local() if hasattr(self.weight, "to_local") else self.weight
        return F.linear(x, weight.flatten(0, 1))


class Attention(nn.Module):
    """Causal self-attention with rotary positions and normalised queries and keys (stable at high rates)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.size = width // heads
        self.qkv = Projections(width)
        self.out = nn.Linear(width, width, bias=False)
        self.attend: Callable[[Tensor, Tensor, Tensor], Tensor] = causal

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        projected = self.qkv(x)
        batch, time, _ = projected.shape
        q, k, v = projected.view(batch, time, 3, -1, self.size).permute(2, 0, 3, 1, 4)
        q, k = rotate(norm(q), rotation), rotate(norm(k), rotation)
        y = self.attend(q, k, v)
        return self.out(y.transpose(1, 2).reshape(batch, time, -1))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attention(norm(x), rotation)
        return x + self.down(F.relu(self.up(norm(x))).square())


class GPT(nn.Module):
    """Bytes (batch, time) to logits of the next byte (batch, time, 256).

    A stage of a pipeline is the same with some blocks only, and with no embedding or no head: then what goes
    in or comes out is the residual stream, (batch, time, width).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding: nn.Module | None = nn.Embedding(VOCABULARY, shape.width)
        # By name, so that a block is called the same in a stage and in the checkpoint of any mesh.
        self.blocks = nn.ModuleDict(
            {str(layer): Block(shape.width, shape.heads) for layer in range(shape.layers)}
        )
        self.head: nn.Module | None = nn.Linear(shape.width, VOCABULARY, bias=False)
        cos, sin = rotation(shape.context, shape.width // shape.heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """Uniform with variance 1/inputs; what writes to the residual stream and the head start at zero,

        so that each block begins as the identity and the first loss is ln 256.
        """
        for name, weight in self.named_parameters():
            if name.endswith(("out.weight", "down.weight", "head.weight")):
                nn.init.zeros_(weight)
            elif name.endswith("embedding.weight"):
                nn.init.normal_(weight)
            else:
                bound = (3 / weight.shape[-1]) ** 0.5
                nn.init.uniform_(weight, -bound, bound)

    def forward(self, tokens: Tensor) -> Tensor:
        turn = (self.cos, self.sin)
        x = norm(self.embedding(tokens)) if self.embedding is not None else tokens
        for block in self.blocks.values():
            x = block(x, turn)
        return self.head(norm(x)) if self.head is not None else x


def norm(x: Tensor) -> Tensor:
    """RMS norm without a gain."""
    return F.rms_norm(x, (x.shape[-1],))


def rotation(time: int, size: int, base: float = 1000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, each (time, size / 2)."""
    frequency = base ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    angle = torch.outer(torch.arange(time, dtype=torch.float32), frequency)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs of channels of (..., time, size) by their position's angle."""
    time = x.shape[-2]
    cos, sin = turn[0][:time], turn[1][:time]
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
