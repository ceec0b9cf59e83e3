"""What knows no cluster: errors, paths, processes, progress, downloads, locks, waiting."""
