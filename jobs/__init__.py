"""Training programs and what starts them. They run on the stack and import nothing from `infra`."""
