"""Command groups of `python -m infra`. Bodies import what they need, so that start-up stays short."""
