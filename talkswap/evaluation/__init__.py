"""Measures of finished clips and of the compact networks."""
