"""What analyze.py's numbers are made into: tables, figures and one HTML page. In reading order:

runs         completion files with their headers; which model wrote what
claims       claims about runs, decided by paired differences
behaviours   verification, backtracking, subgoals in traces, by rules or by a judge
words        words whose rank training changed
weights      which weights did training change, and by how much
compute      what the trainings cost
study        the numbers of one analysis, as the files below take them
transcripts  the completions that the page shows, token by token
tables       tables as text
figures      the figures
page         sentences, caveats, report.html (its template is page.html)
"""
