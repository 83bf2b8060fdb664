"""lowrise makes a Hugging Face causal language model shallower.

Importing the package loads nothing heavy: torch and transformers come in with the module that needs them.
"""

__version__ = "0.1.0"
