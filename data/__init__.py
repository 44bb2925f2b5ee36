"""Data, and what makes it. In reading order:

tiny     the tiny world: problems, a teacher, a base model (data/tiny_base)
addition  STaR's sums of digits on a scratchpad, and what a first model reads
search    Stream of Search: strategies and their searches as texts, and what is wrong with a model's
english  the same for a real language model: problems in sentences, a teacher, facts
smollm   that model, SmolLM2-135M-Instruct, from the hub or from a wheel
hub      data sets of the hub, and their rows as ours
prepare  real data sets and benchmarks as JSONL (python -m data.prepare)
load     rows to train on, from files, directories or data sets
"""
