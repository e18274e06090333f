"""Start a training script, in this process or in many."""
