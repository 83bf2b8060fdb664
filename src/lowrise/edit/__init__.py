"""One short file an edit: what a plan says, done to a model in place."""
