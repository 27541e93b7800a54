"""The marcher of SOF's ancestor, an LSTM (Sitzmann et al., Scene Representation Networks, NeurIPS 2019, section 3.2; published key names).

    step = marcher.along(directions)                what `sof.model.SOF.march` asks of every marcher
    lengths = step(features)                        (B, R, 1), once for each step of the march
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

LSTM_WIDTH = 16
START_DEPTH, START_NOISE = 0.05, 5e-4                           # camera z at which its marches begin, and its standard deviation in training, world units
STEEPEST = 10.0                                                 # gradients of the state are clamped to +-this


class LSTMMarcher(nn.Module):
    """Steps out of a recurrent state, blind to the ray's direction."""

    def __init__(self, in_features: int):
        super().__init__()
        self.lstm = nn.LSTMCell(in_features, LSTM_WIDTH)
        self.out_layer = nn.Linear(LSTM_WIDTH, 1)
        with torch.no_grad():
            for bias in (self.lstm.bias_ih, self.lstm.bias_hh):
                bias[LSTM_WIDTH : 2 * LSTM_WIDTH] = 1.0         # remember at first

    def along(self, directions: Tensor) -> Callable[[Tensor], Tensor]:
        """Step lengths (B, R, 1) from features (B, R, C), the state beginning at zero and carried from call to call."""
        state = None

        def step(features: Tensor) -> Tensor:
            nonlocal state
            state = self.lstm(features.flatten(0, 1), state)
            if state[0].requires_grad:
                state[0].register_hook(lambda gradient: gradient.clamp(-STEEPEST, STEEPEST))
            return self.out_layer(state[0]).unflatten(0, features.shape[:2])

        return step
