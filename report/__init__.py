"""The page that analyze.py writes. In reading order:

behaviours  verification, backtracking, subgoals in traces, by rules
weights     which weights did training change, and by how much
figures     the figures
page        claims, tables, report.html (its template is page.html)
"""
