"""A small byte-level GPT: pre-norm blocks, rotary positions, squared ReLU, no biases."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.config import Model
from jobs.data import VOCABULARY


class Attention(nn.Module):
    """Causal self-attention with rotary positions and normalised queries and keys (stable at high rates)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(norm(q), rotation), rotate(norm(k), rotation)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, time, width))


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
    """Bytes (batch, time) to logits of the next byte (batch, time, 256)."""

    def __init__(self, shape: Model) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.layers))
        self.head = nn.Linear(shape.width, VOCABULARY, bias=False)
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
                bound = (3 / weight.shape[1]) ** 0.5
                nn.init.uniform_(weight, -bound, bound)

    def forward(self, tokens: Tensor) -> Tensor:
        time = tokens.shape[1]
        turn = (self.cos[:time], self.sin[:time])
        x = norm(self.embedding(tokens))
        for block in self.blocks:
            x = block(x, turn)
        return self.head(norm(x))


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
    cos, sin = turn
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each target byte."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
