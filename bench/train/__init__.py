"""Trains router weights in the simulator: never imported by what serves."""
