"""What curate.py needs: rules on texts, and machinery for a million rows. In reading order:

quality     which traces are broken; LIMO's words
similarity  copies: exact, n-grams, MinHash, numbers masked
pool        what is asked of a row; a pool of any size, read a line at a time
rewrite     changes to a trace or a question: corruption, budgets, hints
funnel      how many rows pass each filter, and why the others do not
low_memory  curate.py's selections for a pool that is larger than memory
"""
