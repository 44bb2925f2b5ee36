"""Data, and what makes it. In reading order:

tiny       the tiny world: problems, a teacher, a base model (data/tiny_base)
prepare    real data sets and benchmarks as rows
load       rows to train on, from files, directories or data sets
"""
