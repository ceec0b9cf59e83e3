"""The model and how it is optimised, in which precision."""
