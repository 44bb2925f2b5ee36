"""Studies: claims of papers, each tested by one command. In reading order:

study     the file of a study: arms as commands, claims as lines
sources   which files a command depends on, and their fingerprints
arms      arms as jobs in a store: what is the same is computed once
lanes     jobs side by side, each after those it needs; what failed, what is left
measures  rows with a number that claims compare (python -m atlas.measures)
verdicts  claims decided, the results of a study as one file
page      all results as one HTML page, and as a table for RESULTS.md
run       the command: python -m atlas.run STUDY ...
"""
