"""What `verify` looks at, a question in each module."""
