"""Masks for what people see."""
