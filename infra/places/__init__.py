"""Where a cluster runs: containers here, kind, or machines."""
