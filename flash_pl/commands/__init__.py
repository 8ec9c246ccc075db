"""The commands of ``flash-pl``: ``arguments.py`` declares them, and a function in another file runs each of them."""
