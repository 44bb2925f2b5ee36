"""Data, and what makes it. In reading order:

tiny     the tiny world: problems, a teacher, a base model (data/tiny_base)
hub      data sets of the hub, and their rows as ours
prepare  real data sets and benchmarks as JSONL (python -m data.prepare)
load     rows to train on, from files, directories or data sets
"""
