"""A sweep of collectives, beside what the link can do."""
