"""Planning an extraction: which tensors of a fine-tuned model become which part of an adapter, by the headers alone."""
