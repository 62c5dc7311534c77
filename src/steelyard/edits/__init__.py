"""What changes a model. One method, one file; `steelyard.edits.registry` lists them."""
