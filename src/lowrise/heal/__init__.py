"""Training: of what is put in a span's place, and of the whole shallow model."""

from lowrise.called import called

called(__name__)
