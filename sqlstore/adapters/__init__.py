"""One module per driver, each with a config and a store; import the one that you use."""
