"""Fine-tune open-weight language models from one command line."""
