"""What protocols compute with: tensors and arrays in, tensors and arrays out; no files, no context."""
