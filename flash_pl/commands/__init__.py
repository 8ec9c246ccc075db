"""The commands of ``flash-pl``: ``add`` declares the arguments of a file's commands, a function runs each of them."""
