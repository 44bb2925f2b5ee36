"""What is a right answer, and what is it worth? In reading order:

formulas    arithmetic as values, never executed; Countdown's checker
answers     find the answer in a text, decide whether it equals the gold one
symbolic    the rest: symbolic equality, in a process whose processor time is limited
simplify    that process
sandbox     processes with a hard time limit in which untrusted text is judged
repetition  how much a text repeats itself
ifeval      IFEval's 25 kinds of instructions
rewards     what a completion is worth to grpo.py
labels      problems labelled by the majority answer of a model
"""
