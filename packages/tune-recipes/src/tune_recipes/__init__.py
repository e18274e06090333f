"""Fine-tuning recipes that you read top to bottom, and the library that they import."""
