"""The first door: sums of clipped, quantised contributions with discrete noise under masks."""
