"""What the documentation is made with: `scripts/reference.py` and mkdocs.yml use it."""
