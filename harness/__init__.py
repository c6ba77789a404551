"""What benchmark.py and report.py do, one task a module; a module imports only those that are named before it here.

startup          what must be done before anything else is imported
errors           what can go wrong, by who can mend it
files            whole-or-nothing writes, names as they can be shown
results          a run, a machine, a result file: reading, checking, writing, what may join
statistics       the fit, intervals, ranks: figures only
rows             what a table says of a script: a row
tables           rows as Markdown
verdict          rows as sentences
machines         the same scripts on several machines
comparison       two files, old and new
export           one line a run for other tools
picture          rows as PNG
reporting        the whole report of one file or several, and what goes into the README
output           what a script prints
machine          hardware, cores, quota, clocks of the CPUs, SGEMM
signals          how a signal ends the runner
progress         what a person sees while it runs
processes        one command and its whole tree
environments     uv and interpreters
data             MNIST, or stand-in digits where it cannot be had
plan             which runs, in which order, and how long they take
runner           all of it in order
"""
