"""The blocks that fields are built of."""
