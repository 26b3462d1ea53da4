"""Sequences: recurrent networks that classify, tag, continue and translate."""
