"""python -m jobs VERB: what is done before and after a run."""
