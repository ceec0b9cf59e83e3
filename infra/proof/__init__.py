"""A job on a running cluster, and the checks of its nodes."""
