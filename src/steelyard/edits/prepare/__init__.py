"""Changes of a model's weights that leave its function as it is and make it easier to round."""
