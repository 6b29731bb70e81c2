"""`lethe bench`: every unlearning method under one audit, as one resumable program.

Needs torch, numpy, scipy, scikit-learn, pydantic and safetensors; pyarrow and Pillow for Parquet data; matplotlib
for the plots. No database, no service.
"""
