"""Machines that are containers of this host."""
