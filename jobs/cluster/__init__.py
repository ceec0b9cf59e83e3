"""What a job learns from its scheduler and its node."""
