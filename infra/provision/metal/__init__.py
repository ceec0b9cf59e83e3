"""Machines that are servers with a management controller."""
