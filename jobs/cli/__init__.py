"""What every command line of the jobs shares: options and errors."""
