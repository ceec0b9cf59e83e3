"""Ways to start the jobs of this folder beside sbatch, torchrun and kubectl: submitit, and schedulers for TorchX."""
