"""Text as bytes: shards, batches, proofs of which samples were seen."""
