"""
Compare txsignalfd with other libraries: C{python -m benchmarks}.
"""
