"""Golden cases and their runner: ``python -m tests.golden [--kinds K,...] DIR ...``."""
