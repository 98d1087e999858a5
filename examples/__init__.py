"""Worked examples; docs/operator.md reads them line by line."""
