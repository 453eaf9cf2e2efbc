"""Teach a language model your own functions: calls, words for them, data, fine-tuning, evaluation."""
