"""What is a right answer, and what is it worth? In reading order:

spelling    one spelling for every answer: Unicode, LaTeX, numbers, words
units       units behind a number, which may be left out but not differ
formulas    arithmetic as values, never executed; Countdown's checker
structures  lists, tuples, intervals, matrices, names
reals       sets of real numbers: unions, differences, inequalities
choices     which letter does an answer to a multiple-choice question name?
extraction  find the answer in a text: an ordered list of rules
answers     decide whether an answer equals the gold one
symbolic    the rest: symbolic equality, in a process whose processor time is limited
simplify    that process
sandbox     processes with a hard time limit in which untrusted text is judged
repetition  how much a text repeats itself
ifeval      IFEval's 25 kinds of instructions
rewards     what a completion is worth to grpo.py
labels      problems labelled by the majority answer of a model
verdicts    what a verifier is trained on and asked, and its probabilities as a field
"""
