"""Losses, the training loop and tuning."""
