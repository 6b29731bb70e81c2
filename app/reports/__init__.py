"""The audit report as rows, as a page and as a model card."""
