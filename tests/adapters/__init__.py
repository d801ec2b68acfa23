"""What only one driver does."""
