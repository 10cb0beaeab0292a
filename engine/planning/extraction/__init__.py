"""What of a fine-tuned model becomes which part of an adapter, known from the headers alone."""
