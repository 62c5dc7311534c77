"""The merge methods: each is one file with one decorated function."""
