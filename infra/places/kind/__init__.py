"""A Kubernetes cluster in containers of this machine, made by kind: up, down, looking into it, its jobs."""
