"""Serving engines: what each reads, GGUF files out, and the engines' own answers."""
