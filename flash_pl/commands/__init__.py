"""The commands of ``flash-pl``, one file each: ``add`` declares its arguments, ``run`` does it."""
