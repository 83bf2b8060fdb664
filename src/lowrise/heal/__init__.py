"""Repairing what a cut broke."""
