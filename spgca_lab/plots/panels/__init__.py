"""The figures of the explorers: arrays become one figure of a fixed size, drawn on a canvas in milliseconds."""
