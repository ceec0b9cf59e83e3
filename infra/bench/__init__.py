"""What Slipway costs, each figure beside its limit. A module for each kind of thing measured."""
