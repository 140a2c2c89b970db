"""Instruments: what is in a picture, read by networks of their own, independent of every model that is measured."""
