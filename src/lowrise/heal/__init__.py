"""Repairing what a cut broke."""

from lowrise.called import called

called(__name__)
