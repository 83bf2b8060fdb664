"""What a model does and what it weighs."""

from lowrise.called import called

called(__name__)
