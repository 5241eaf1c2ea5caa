"""
What txsignalfd costs, beside what else there is: C{python -m benchmarks}.
"""
