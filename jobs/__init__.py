"""Training programs and what starts them. Runs on the stack; imports nothing from `infra`, so it can be copied."""
