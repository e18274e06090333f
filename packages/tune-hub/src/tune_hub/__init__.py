"""Models on the Hugging Face Hub by short names."""
