"""The pages in docs/: what they show runs, and what they say is so."""
