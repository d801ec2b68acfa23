"""The program that measures works."""
