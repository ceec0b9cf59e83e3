"""What every command line of the jobs shares: options, errors, files."""
