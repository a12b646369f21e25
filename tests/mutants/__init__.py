"""A mutation run: one small wrong thing at a time in a program or an objective, and whether a test sees it.

``make mutants`` runs it; ``operators`` are the wrong things, ``room`` the files, ``install`` puts one mutant into a
process, ``seen`` knows which test runs which line, ``run`` asks the tests, and ``report`` counts.
"""
