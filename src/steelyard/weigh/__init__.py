"""What is in a model, and what it costs to store, train and serve: from headers and config alone. Torch-free."""
