"""Checkpoints under Meta's tensor names, which Mistral and torchtune use too, and the way back to them."""
