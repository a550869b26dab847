"""Sigma rules compiled to indexed matchers."""
