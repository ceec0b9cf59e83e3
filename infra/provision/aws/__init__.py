"""Machines on AWS."""
