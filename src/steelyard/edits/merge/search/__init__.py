"""Searching a recipe's numbers against measured losses."""
