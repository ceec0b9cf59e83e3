"""Ranks, their mesh, and how a model is spread over it."""
