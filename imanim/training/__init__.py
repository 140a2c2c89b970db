"""Training: the curriculum's three stages on DeepSpeed."""
