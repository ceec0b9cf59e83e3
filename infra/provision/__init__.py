"""Machines: what Pulumi makes from a cluster file, the same way in every place."""
