"""What the files say: machine types, clusters, stacks, jobs. Pure."""
