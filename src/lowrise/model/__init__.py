"""The only place that knows model families."""
