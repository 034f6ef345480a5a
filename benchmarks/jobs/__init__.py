"""What is measured: each function is one job, run in a process of its own, imports done before the clock starts.

Every job says how many things it wrote and found right when it read them back, after the clock has stopped.
"""
