"""This machine's container engine and packages."""
