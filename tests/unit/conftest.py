"""What all unit tests share."""

from hypothesis import settings

# Other programs run on this machine as well: how long an example took says nothing.
settings.register_profile("slipway", deadline=None)
settings.load_profile("slipway")
