"""A state that each byte changes, as Elman's (1990), and what it says of the next byte."""

import torch
from torch import Tensor, nn


class RNN(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, hidden)
        self.into, self.on = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden, bias=False)
        self.head = nn.Linear(hidden, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        read = self.into(self.embedding(tokens))
        state, states = torch.zeros_like(read[:, 0]), []
        for time in range(tokens.shape[1]):
            state = torch.tanh(read[:, time] + self.on(state))
            states.append(state)
        return self.head(torch.stack(states, dim=1))
