"""Images and stacks, built from packages and verified."""
