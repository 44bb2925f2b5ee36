"""What curate.py needs for a million rows. In reading order:

quality     which traces are broken; LIMO's words
similarity  copies: exact, n-grams, MinHash, numbers masked
pool        a pool of any size, read a line at a time; the funnel
rewrite     changes to a trace or a question: corruption, budgets, hints
"""
