"""The pictures that explorers show: arrays in, one figure of a fixed size out, drawn at once."""
