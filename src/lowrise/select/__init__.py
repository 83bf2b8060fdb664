"""One short file a criterion: statistics in, plan out."""
