"""Metrics: torchmetrics classes, so that they are exact over batches and processes."""
