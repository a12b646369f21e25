"""What the command line does: each function ``do_NAME`` is the command NAME.

Heavy imports stand inside the functions, so that ``pyro-vaes --help`` answers at once.
"""
