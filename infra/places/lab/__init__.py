"""A cluster of containers on this machine: start, prove, look at, stop. One file per verb."""
