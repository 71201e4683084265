import os

# numpy's linear algebra, which nothing here uses, would start a thread for each CPU, with memory of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
