"""Configuration: fragment files and environment in, validated settings out, each value with the place it came from."""
