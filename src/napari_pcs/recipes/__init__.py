"""Named settings of pre-training, as JSON beside this file."""
