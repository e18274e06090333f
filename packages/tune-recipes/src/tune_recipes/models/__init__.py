"""One decoder under Hugging Face's parameter names: its configuration, loading and export."""
