"""lowrise makes a Hugging Face causal language model shallower.

Importing the package loads nothing heavy: torch and transformers come in with the module that needs them.
"""

from lowrise.threads import wait_briefly

__version__ = "0.1.0"

wait_briefly()  # here, because it is of use only before torch is imported
